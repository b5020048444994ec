# Shared by our own two peers: the programs, built in release mode, and small helpers. Sourced after lib.sh.
ROOT=$(readlink -f "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../..")
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
ASHLAR=${ASHLAR:-$TARGET/release/ashlar}
STORAGED=${STORAGED:-$TARGET/release/storaged}
SIZE=${SIZE:-64GiB}

build() { # what the sources say now; NO_BUILD=1 measures the programs as they are
    [ -n "${NO_BUILD:-}" ] || (cd "$ROOT" && cargo build --release --quiet -p gateway -p storaged --bins)
}

field() { # the value of one string field of a small JSON text
    sed -n "s/.*\"$1\" *: *\"\([^\"]*\)\".*/\1/p" | head -1
}

per_disk() { # SIZE in equal shares
    echo "$((${SIZE%GiB} / $1))GiB"
}

wait_for_end() { # the process has flushed and gone: what umount alone does not wait for
    local pid
    pid=$(cat "$1" 2>/dev/null) || return 0
    for _ in $(seq 600); do [ -d /proc/"$pid" ] || break; sleep 0.1; done
    stop_pidfile "$1"
}

# Sourced by the suites' runners beside it. What they have in common:
#   POSIX_OUT=DIR    where logs and results go (default: a new temporary directory)
#   POSIX_KNOWN=FILE names of tests whose failure is accepted ('#' begins a comment); they are counted
#                    as failed in the summary, but do not make the exit status 1
#   last line printed: suite=NAME passed=N failed=N skipped=N
#   $POSIX_OUT/NAME.failed   failing names, one a line
#   $POSIX_OUT/NAME.skipped  skipped names (with the reason after a tab, where the suite gives one)
#   $POSIX_OUT/NAME.passed   passing names
#   exit status: 0 no unexpected failure, 1 some, 2 could not run

die() { echo "$(basename "$0"): $*" >&2; exit 2; }

suites_dir() { # where installed suites are kept
	if [ -n "${POSIX_CACHE:-}" ]; then echo "$POSIX_CACHE"; return; fi
	local target
	target=$(cd "$here/../.." && cargo metadata --format-version=1 --no-deps --offline 2>/dev/null |
		grep -o '"target_directory":"[^"]*"' | cut -d'"' -f4)
	[ -n "$target" ] && echo "$target/suites"
}

installed() { # NAME: path of the program, installed if need be
	local bin
	bin=$("$here/install" "$1") || exit 2
	echo "$bin/$1"-*
}

posix_init() { # NAME
	SUITE=$1
	if [ -n "${POSIX_OUT:-}" ]; then mkdir -p "$POSIX_OUT"; else POSIX_OUT=$(mktemp -d "${TMPDIR:-/tmp}/posix-$SUITE.XXXXXX"); fi
	POSIX_OUT=$(cd "$POSIX_OUT" && pwd)
	# The suites change the directory.
	if [ -n "${POSIX_KNOWN:-}" ]; then
		POSIX_KNOWN=$(readlink -e "$POSIX_KNOWN") || die "POSIX_KNOWN must name a file"
	fi
	: >"$POSIX_OUT/$SUITE.passed"; : >"$POSIX_OUT/$SUITE.failed"; : >"$POSIX_OUT/$SUITE.skipped"
}

need_dir() { # DIR: a writable directory, made absolute in DIR_ABS
	[ -n "${1:-}" ] || die "usage: $(basename "$0") DIR"
	[ -d "$1" ] || die "$1 is not a directory"
	DIR_ABS=$(cd "$1" && pwd)
	touch "$DIR_ABS/.posix-w.$$" 2>/dev/null || die "$1 is not writable"
	rm -f "$DIR_ABS/.posix-w.$$"
}

names() { # FILE: the names in a list, without comments
	sed 's/#.*//; s/[[:space:]].*//; /^$/d' "$1"
}

count() { grep -c . "$POSIX_OUT/$SUITE.$1" || true; }

posix_finish() {
	local unexpected="$POSIX_OUT/$SUITE.unexpected" known="$POSIX_OUT/.known.$$" n
	if [ -n "${POSIX_KNOWN:-}" ]; then
		names "$POSIX_KNOWN" >"$known"
		grep -v -x -F -f "$known" "$POSIX_OUT/$SUITE.failed" >"$unexpected" || true
		n=$(grep -c -x -F -f "$known" "$POSIX_OUT/$SUITE.passed")
		[ "$n" -eq 0 ] || { echo "listed as known failures, but passed ($n):"; grep -x -F -f "$known" "$POSIX_OUT/$SUITE.passed" | sed 's/^/  /'; }
		rm -f "$known"
	else
		cp "$POSIX_OUT/$SUITE.failed" "$unexpected"
	fi
	if [ -s "$unexpected" ]; then
		echo "failures${POSIX_KNOWN:+ not listed as known} ($(grep -c . "$unexpected")):"
		head -n 60 "$unexpected" | sed 's/^/  /'
	fi
	echo "results: $POSIX_OUT"
	echo "suite=$SUITE passed=$(count passed) failed=$(count failed) skipped=$(count skipped)"
	if [ -s "$unexpected" ]; then return 1; fi
	# A run in which nothing passed has shown nothing.
	[ "$(count passed)" -gt 0 ]
}

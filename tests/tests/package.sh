# What package.rs does with the Debian package, in a root directory of its own: what dpkg and the
# daemons change is on a layer that goes with the mount namespace.
#
#   unshare --mount --propagation private bash package.sh OLD.deb NEW.deb DIR
set -euo pipefail
old=$1 new=$2 dir=$3
step() { echo "== $*"; }

mkdir -p "$dir/layer"
mount -t tmpfs tmpfs "$dir/layer"
mkdir "$dir"/layer/{upper,work,root}
mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/layer/upper,workdir=$dir/layer/work" "$dir/layer/root"
root=$dir/layer/root
for name in dev proc sys; do mount --rbind "/$name" "$root/$name"; done
cp "$old" "$root/old.deb"; cp "$new" "$root/new.deb"
inside=(chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive)
in_root() { "${inside[@]}" "$@"; }
rm -rf "$root/etc/ashlar"

step install
in_root dpkg -i /old.deb
for program in ashlar storaged proxyd; do
	in_root "$program" --version
	! readelf -S "$root/usr/bin/$program" | grep -q debug_line || { echo "$program is not stripped"; exit 1; }
	ls "$root"/usr/share/man/man[18]/"$program".[18]*
	in_root bash -n "/usr/share/bash-completion/completions/$program"
done
test -x "$root/sbin/mount.fuse.ashlar" -a -x "$root/sbin/umount.fuse.ashlar" -a -e "$root/etc/ashlar/storaged.toml"
in_root dpkg --verify ashlar

step units
# Whether a unit is well-formed; what it names is there.
if test -x "$root/usr/bin/systemd-analyze" >/dev/null; then
	in_root systemd-analyze verify --man=no /usr/lib/systemd/system/storaged.service '/usr/lib/systemd/system/ashlar@.service' \
		'/usr/lib/systemd/system/ashlar-serve@.service' /usr/lib/systemd/system/ashlar-metad.service /usr/lib/systemd/system/ashlar-node.service
else
	echo 'NOT TESTED: there is no systemd-analyze here to read the units' >&2
fi

step 'a daemon by its unit'
cluster=$(in_root storaged disk init /srv/d0 --new-cluster --capacity 256MiB --block-file 16MiB --json |
	python3 -c 'import json, sys; print(json.load(sys.stdin)["cluster"])')
for n in 1 2 3 4 5; do in_root storaged disk init "/srv/d$n" --cluster "$cluster" --capacity 256MiB --block-file 16MiB; done
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
{
	echo 'disk = ["/srv/d0", "/srv/d1", "/srv/d2", "/srv/d3", "/srv/d4", "/srv/d5"]'
	echo "listen = \"127.0.0.1:$port\""
} >"$root/etc/ashlar/storaged.toml"
{
	echo "cluster = \"$cluster\""
	for n in 0 1 2 3 4 5; do
		id=$(in_root storaged disk info "/srv/d$n" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["disk"])')
		printf '[[slot]]\ndisk = "%s"\naddress = "127.0.0.1:%s"\n' "$id" "$port"
	done
} >"$root/etc/ashlar/cluster.toml"

# Runs the command line of a unit as systemd would, and waits until it says that it is ready. `said`: what its settings say
# otherwise.
said=()
unit() { # NAME.service [INSTANCE]
	local line
	line=$(sed -n 's/^ExecStart=//p' "$root/usr/lib/systemd/system/$1")
	line=${line//%i/${2:-}}
	rm -f "$dir/$1.ready"
	rm -f "$root/notify"
	python3 - "$dir/$1.ready" "$root/notify" <<'PYTHON' &
import os, socket, sys
ready, name = sys.argv[1:]
listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
listener.bind(name)
listener.settimeout(120)
open(ready + ".listening", "w").close()
while b"READY=1" not in listener.recv(4096).split(b"\n"):
    pass
os.rename(ready + ".listening", ready)
PYTHON
	local listener=$!
	until [ -e "$dir/$1.ready.listening" ]; do kill -0 $listener; done
	# The variables of the unit, and what it lets an administrator say.
	local settings
	settings=$(sed -n 's/^Environment=//p' "$root/usr/lib/systemd/system/$1")
	# Not by the function: the process is to be the daemon itself.
	"${inside[@]}" ${settings//%i/${2:-}} "${said[@]}" NOTIFY_SOCKET=/notify bash -c "exec $line" >"$dir/$1.log" 2>&1 &
	started=$!
	wait $listener || { cat "$dir/$1.log"; exit 1; }
	echo "$1 is ready"
}
ends() { # PID SIGNAL: it ends in order
	kill "-$2" "$1"
	wait "$1"
}
trap 'kill -9 $(jobs -p) 2>/dev/null || true; umount -l "$root/mnt/photos" 2>/dev/null || true' EXIT

unit storaged.service
daemon=$started
in_root storaged status --address "127.0.0.1:$port"
in_root ashlar format photos --scheme 'ec(4,2)'
mkdir -p "$root/mnt/photos"
unit ashlar@.service photos
mount=$started
in_root cp -r /usr/share/doc/ashlar /mnt/photos/
in_root ashlar status /mnt/photos || test $? = 3 # nothing has been counted yet

step upgrade
in_root dpkg -i /new.deb
in_root dpkg-query -W -f '${Version} ${Status}\n' ashlar
grep -q "$port" "$root/etc/ashlar/storaged.toml" || { echo 'the upgrade changed the settings'; exit 1; }
diff -r "$root/usr/share/doc/ashlar" "$root/mnt/photos/ashlar"
in_root ashlar umount /mnt/photos
wait "$mount"
ends "$daemon" TERM
unit storaged.service
daemon=$started
in_root mount -t fuse.ashlar photos /mnt/photos
diff -r "$root/usr/share/doc/ashlar" "$root/mnt/photos/ashlar"
in_root umount /mnt/photos

step 'doors by their unit'
free() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
http=$(free) s3=$(free)
said=("DOORS=--http 127.0.0.1:$http --s3 127.0.0.1:$s3")
unit ashlar-serve@.service photos
said=()
python3 - "$http" "$s3" <<'PYTHON'
import sys, urllib.request
for port, path, word in zip(sys.argv[1:], ["api/v1/entries/", ""], [b'"name":"ashlar"', b"<Name>ashlar</Name>"]):
    seen = urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=60).read()
    assert word in seen, (path, seen)
PYTHON
ends "$started" TERM

step 'a metad by its unit'
address=127.0.0.1:$(free)
sed -i "1i metad = [\"$address\"]" "$root/etc/ashlar/cluster.toml"
said=("LISTEN=$address")
unit ashlar-metad.service
said=()
metad=$started
in_root mount -t fuse.ashlar photos /mnt/photos
diff -r "$root/usr/share/doc/ashlar" "$root/mnt/photos/ashlar"
in_root umount /mnt/photos
ends "$metad" TERM
ends "$daemon" TERM

step remove
in_root dpkg -r ashlar
for gone in usr/bin/ashlar usr/bin/storaged sbin/mount.fuse.ashlar usr/lib/systemd/system/storaged.service usr/lib/systemd/system/ashlar-serve@.service usr/lib/systemd/system/ashlar-metad.service usr/lib/systemd/system/ashlar-node.service; do
	! test -e "$root/$gone" || { echo "/$gone is still there"; exit 1; }
done
test -e "$root/etc/ashlar/storaged.toml" -a -e "$root/srv/d0/superblock"
in_root dpkg -P ashlar
! test -e "$root/etc/ashlar/storaged.toml" || { echo 'settings are still there after purge'; exit 1; }
test -e "$root/srv/d0/superblock" -a -e "$root/etc/ashlar/cluster.toml"
step done

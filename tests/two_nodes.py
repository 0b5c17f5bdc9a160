"""A Ray cluster of two machines on this one: network namespaces, each with its own address, HOME, working folder and
cache; the second has the packages that this project depends on, and neither the project nor a look at the first one's
HOME. For Linux, as root."""

import os
import shutil
import site
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

PORT = 6390
ADDRESSES = {"fm-head": "10.77.0.1", "fm-node": "10.77.0.2"}


def possible() -> bool:
    """Whether this user may make network namespaces here."""
    if not shutil.which("ip") or os.geteuid() != 0:
        return False
    made = subprocess.run(["ip", "netns", "add", "fm-try"], capture_output=True, check=False).returncode == 0
    subprocess.run(["ip", "netns", "del", "fm-try"], capture_output=True, check=False)
    return made


@dataclass
class TwoNodes:
    """Where the head answers, and how to run something on either machine."""

    base: Path
    environment: dict[str, str]
    sockets: Path  # a short name: those of Ray's sockets are no longer than 107 bytes
    raylets: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"{ADDRESSES['fm-head']}:{PORT}"

    def python(self, node: str) -> str:
        return sys.executable if node == "fm-head" else str(self.base / "venv" / "bin" / "python")

    def start(self, node: str, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
        """`python ARGUMENTS` on a machine."""
        home = self.base / node
        for each in (home, self.base / "fm-head"):
            each.mkdir(parents=True, exist_ok=True)
        (self.sockets / node).mkdir(exist_ok=True)
        own = {"HOME": str(home), "FM_CACHE": str(home / "cache"), "RAY_TMPDIR": str(self.sockets / node)}
        names = ("PATH", "LANG", *(("PYTHONPATH", "FM_STATE") if node == "fm-head" else ()))
        environment = {name: os.environ[name] for name in names if name in os.environ} | self.environment | own
        hide = ["sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(self.base / "fm-head")]
        apart = hide if node != "fm-head" else []
        command = ["ip", "netns", "exec", node, *apart, self.python(node), *arguments]
        with open(log, "ab") as out:
            return subprocess.Popen(command, cwd=home, env=environment, stdout=out, stderr=out, start_new_session=True)

    def ray(self, node: str, cpus: int) -> None:
        """Starts a machine's part of the cluster."""
        where = ["--head", f"--port={PORT}", "--include-dashboard=false"]
        if node != "fm-head":
            where = [f"--address={self.address}"]
        sizes = [f"--num-cpus={cpus}", f"--memory={2 * 2**30}", f"--object-store-memory={100 * 2**20}"]
        start = ["-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        start += [f"--node-ip-address={ADDRESSES[node]}", *sizes, *where]
        self.raylets[node] = self.start(node, *start, log=self.base / f"{node}.log")

    def await_nodes(self, count: int, limit_s: float = 120) -> None:
        """Until so many machines are up, as a driver on the head sees them."""
        look = (
            f"import ray; ray.init('{self.address}', logging_level='error', log_to_driver=False); "
            f"raise SystemExit(sum(node['Alive'] for node in ray.nodes()) != {count})"
        )
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            for node, raylet in self.raylets.items():
                if raylet.poll() is not None:
                    raise RuntimeError(f"{node} ended\n" + (self.base / f"{node}.log").read_text()[-2000:])
            if self.start("fm-head", "-c", look, log=self.base / "look.log").wait() == 0:
                return
            time.sleep(1)
        raise RuntimeError(f"{count} machines were not up after {limit_s:.0f} s")

    def kill(self, node: str) -> None:
        """The machine's processes end at once, as by a loss of power."""
        pids = subprocess.run(["ip", "netns", "pids", node], capture_output=True, text=True, check=False).stdout.split()
        for pid in map(int, pids):
            if node != "fm-head" or "ray" in _command(pid):  # what was started there beside Ray stays
                with suppress(ProcessLookupError):
                    os.kill(pid, 9)
        self.raylets.pop(node).wait()


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return ""


@contextmanager
def two_nodes(base: Path, cpus: int = 1, **environment: str) -> Iterator[TwoNodes]:
    """The cluster, both machines up, for the length of the block, with more in their environment."""
    token = base / "token"
    base.mkdir(parents=True, exist_ok=True)
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o600)
    _bare_venv(base / "venv")
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "GLOO_SOCKET_IFNAME": "fm-link",  # else gloo takes the loopback, which ends at the machine
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "OMP_NUM_THREADS": "1",
    }
    sockets = Path(tempfile.mkdtemp(prefix="fm-"))
    cluster = TwoNodes(base, environment, sockets)
    try:
        _connect()
        for node in ADDRESSES:
            cluster.ray(node, cpus)
            cluster.await_nodes(len(cluster.raylets))
        yield cluster
    finally:
        for node in ADDRESSES:
            pids = subprocess.run(["ip", "netns", "pids", node], capture_output=True, text=True, check=False).stdout
            for pid in map(int, pids.split()):
                with suppress(ProcessLookupError):
                    os.kill(pid, 9)
        for raylet in cluster.raylets.values():
            raylet.wait()
        for node in ADDRESSES:
            subprocess.run(["ip", "netns", "del", node], check=False)
        shutil.rmtree(sockets, ignore_errors=True)


def _connect() -> None:
    """Two namespaces, and a cable between them."""
    for node in ADDRESSES:
        subprocess.run(["ip", "netns", "del", node], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "add", node], check=True)
    one, other = ADDRESSES
    subprocess.run(
        ["ip", "-n", one, "link", "add", "fm-link", "type", "veth", "peer", "name", "fm-link", "netns", other],
        check=True,
    )
    for node, address in ADDRESSES.items():
        subprocess.run(["ip", "-n", node, "addr", "add", f"{address}/24", "dev", "fm-link"], check=True)
        for link in ("lo", "fm-link"):
            subprocess.run(["ip", "-n", node, "link", "set", link, "up"], check=True)


def _bare_venv(folder: Path) -> None:
    """A Python with the packages of this one, but for what is installed from a working tree: this project."""
    venv.create(folder, with_pip=False)
    own = next((folder / "lib").glob("python*")) / "site-packages"
    (own / "others.pth").write_text("\n".join(site.getsitepackages()) + "\n")  # whose own .pth files are not read

"""A real PostgreSQL (Debian's) with two empty databases, for as long as a block lasts."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = [folder for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin")) if (folder / "initdb").exists()]
PASSWORD = "planted%27-secret"  # as it stands in an address
SPOKEN = "planted'-secret"


@dataclass(frozen=True)
class Postgres:
    """A cluster of databases in a folder; root may not run it, so another user does."""

    folder: Path
    port: int

    def call(self, program: str, *arguments: str) -> None:
        user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        command = [*user, str(PROGRAMS[-1] / program), *arguments]
        environment = os.environ | {"PGPASSWORD": SPOKEN}
        done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self.call("pg_ctl", "-D", f"{self.folder}/data", "-l", f"{self.folder}/log", "-w", "-o", options, "start")

    def stop(self) -> None:
        self.call("pg_ctl", "-D", f"{self.folder}/data", "-m", "immediate", "-w", "stop")

    def address(self, name: str, driver: str = "", password: str = PASSWORD) -> str:
        return f"postgresql{driver}://fm:{password}@127.0.0.1:{self.port}/{name}"


@contextmanager
def running(port: int) -> Iterator[Postgres]:
    """Its folder is not below pytest's, where its user may not go."""
    folder = Path(tempfile.mkdtemp(prefix="fm-postgres-"))
    (folder / "password").write_text(SPOKEN)
    if os.getuid() == 0:
        for path in (folder, folder / "password"):
            shutil.chown(path, "postgres")
    cluster = Postgres(folder, port)
    login = ("-U", "fm", "-A", "scram-sha-256", "--pwfile", str(folder / "password"))
    try:
        cluster.call("initdb", "-D", str(folder / "data"), *login, "--no-sync")
        cluster.start()
        try:
            for name in ("prefect", "mlflow"):
                cluster.call("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "fm", name)
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(folder)

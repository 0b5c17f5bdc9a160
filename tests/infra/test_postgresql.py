"""Prefect and MLflow over a real PostgreSQL (Debian's), with MLflow's artifacts in a real S3 server (moto's)."""

import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fm.errors import UserError
from infra import local, processes
from infra.services import ask
from infra.state import Ports

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
def running(folder: Path, port: int) -> Iterator[Postgres]:
    (folder / "password").write_text(SPOKEN)
    if os.getuid() == 0:
        for path in (folder, folder / "password"):
            shutil.chown(path, "postgres")
    cluster = Postgres(folder, port)
    login = ("-U", "fm", "-A", "scram-sha-256", "--pwfile", str(folder / "password"))
    cluster.call("initdb", "-D", str(folder / "data"), *login, "--no-sync")
    cluster.start()
    try:
        for name in ("prefect", "mlflow"):
            cluster.call("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "fm", name)
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    if not PROGRAMS:
        pytest.skip("no PostgreSQL on this machine (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="fm-postgres-"))  # not below pytest's, where its user may not go
    base = 30000 + os.getpid() % 2000
    while processes.port_in_use(base):
        base += 1
    try:
        with running(folder, base) as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def ports(postgres: Postgres) -> Ports:
    base = postgres.port - 6000
    while any(processes.port_in_use(port) for port in range(base, base + 5)):
        base += 5
    return Ports.from_base(base)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_prefect_and_mlflow_keep_all_in_postgresql_and_s3(
    postgres: Postgres, ports: Ports, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FM_START_S", "600")
    monkeypatch.setenv("FM_PREFECT_DATABASE", postgres.address("prefect", "+asyncpg"))
    monkeypatch.setenv("FM_MLFLOW_BACKEND", postgres.address("mlflow"))
    monkeypatch.setenv("FM_MLFLOW_ARTIFACTS", "s3://bucket/mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")
    state = tmp_path / "state"
    try:
        services = local.up(state, ports, workers=False, ray=False)
        deployment = deploy(services.prefect_api)
        log_to_mlflow(services.mlflow, tmp_path)
        assert [path.rpartition("/")[2] for path in s3.find("bucket/mlflow")] == ["picture.txt"]
        assert rows(postgres, "prefect", "deployment") == rows(postgres, "prefect", "flow") == 1
        assert rows(postgres, "mlflow", "runs") == 1
        assert list(state.rglob("*.db")) == []

        postgres.stop()  # for a moment: the server answers that it cannot, and is the same one afterwards
        before = [one.pid for one in local.status(state)]
        with pytest.raises(urllib.error.HTTPError):
            ask(f"{services.prefect_api}/deployments/{deployment}", timeout_s=60)
        postgres.start()
        deadline = time.monotonic() + 120
        while not answers(f"{services.prefect_api}/deployments/{deployment}"):
            assert time.monotonic() < deadline
            time.sleep(1)
        assert [one.pid for one in local.status(state)] == before
        assert not any(secret in str(local.status(state)) for secret in (PASSWORD, SPOKEN))
    finally:
        local.down(state)
    check_unsaid(state)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_wrong_password_is_said_without_it(
    postgres: Postgres, ports: Ports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FM_START_S", "600")
    monkeypatch.setenv("FM_PREFECT_DATABASE", postgres.address("prefect", "+asyncpg", "planted%27-secret-too"))
    with pytest.raises(UserError, match="prefect: ended while it started") as raised:
        local.up(tmp_path / "state", ports, workers=False, ray=False)
    assert not any(secret in str(raised.value) for secret in (PASSWORD, SPOKEN))
    assert processes.belonging(tmp_path / "state", marked=True) == []
    check_unsaid(tmp_path / "state")


def deploy(api: str) -> str:
    """A deployment with a schedule, as far as the scheduler's runs of it."""
    flow = ask(f"{api}/flows/", body={"name": "over-postgresql"}, timeout_s=60)
    nightly = {"schedule": {"cron": "0 3 * * *"}, "active": True}
    body = {"name": "nightly", "flow_id": flow["id"], "schedules": [nightly]}
    deployment = ask(f"{api}/deployments/", body=body, timeout_s=60)["id"]
    mine = {"deployments": {"id": {"any_": [deployment]}}}
    deadline = time.monotonic() + 300
    while not ask(f"{api}/flow_runs/filter", body=mine, timeout_s=60):
        assert time.monotonic() < deadline, "the scheduler made no run"
        time.sleep(1)
    return deployment


def log_to_mlflow(address: str, folder: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(address)
    run = client.create_run(client.create_experiment("over-postgresql"))
    client.log_metric(run.info.run_id, "loss", 0.5, step=1)
    (folder / "picture.txt").write_text("pixels")
    client.log_artifact(run.info.run_id, str(folder / "picture.txt"))
    assert client.get_metric_history(run.info.run_id, "loss")[0].value == 0.5


def rows(postgres: Postgres, database: str, table: str) -> int:
    import psycopg2

    with psycopg2.connect(postgres.address(database)) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {table}")
        return cursor.fetchone()[0]


def answers(url: str) -> bool:
    try:
        return bool(ask(url, timeout_s=10))
    except OSError:
        return False


def check_unsaid(state: Path) -> None:
    """No file of the state folder has the password, in either form."""
    files = [path for path in state.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files for secret in (PASSWORD, SPOKEN) if secret.encode() in path.read_bytes()] == []

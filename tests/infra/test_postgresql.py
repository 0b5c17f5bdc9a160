"""Prefect and MLflow over a real PostgreSQL (Debian's), with MLflow's artifacts in a real S3 server (moto's)."""

import os
import subprocess
import sys
import time
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fm.errors import UserError
from infra import local, processes
from infra.services import Services, ask
from infra.state import Ports
from tests.postgresql import PASSWORD, PROGRAMS, SPOKEN, Postgres, running

AWAY_S = 60


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    if not PROGRAMS:
        pytest.skip("no PostgreSQL on this machine (Debian: apt-get install postgresql)")
    base = 30000 + os.getpid() % 2000
    while processes.port_in_use(base):
        base += 1
    with running(base) as cluster:
        yield cluster


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

        before = [one.pid for one in local.status(state)]
        run_through_a_minute_without(postgres, services, deployment, tmp_path / "flow")
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


@contextmanager
def away(postgres: Postgres, url: str) -> Iterator[None]:
    """For the length of the block the server answers that it cannot; after it it can, in the same process."""
    postgres.stop()
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(url, timeout_s=60)
    assert refused.value.code == 503  # at which clients send again
    try:
        yield
    finally:
        postgres.start()
    until(lambda: answers(url), 120)


def run_through_a_minute_without(postgres: Postgres, services: Services, deployment: str, folder: Path) -> None:
    """A flow one of whose tasks ends while the database is away, and another begins and ends: nothing is lost."""
    folder.mkdir()
    code = "import sys; from tests.tasks.small import two_tasks; two_tasks(sys.argv[1])"
    environment = os.environ | services.environment()
    flow = subprocess.Popen([sys.executable, "-c", code, str(folder)], env=environment)
    try:
        until(lambda: (folder / "begun").exists(), 120)
        time.sleep(5)  # the first task's state is written
        with away(postgres, f"{services.prefect_api}/deployments/{deployment}"):
            (folder / "first").touch()
            time.sleep(5)
            (folder / "second").touch()
            time.sleep(AWAY_S - 5)
        assert flow.wait(240) == 0
    finally:
        flow.kill()
    (run,) = ask(f"{services.prefect_api}/flow_runs/filter", {"flows": {"name": {"any_": ["two-tasks"]}}}, timeout_s=60)
    assert run["state"]["type"] == "COMPLETED"
    tasks = {"flow_runs": {"id": {"any_": [run["id"]]}}}
    ended = [("first", "COMPLETED", 1), ("second", "COMPLETED", 1)]
    until(lambda: brief(ask(f"{services.prefect_api}/task_runs/filter", tasks, timeout_s=60)) == ended, 60)


def brief(task_runs: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
    return sorted((one["name"], one["state"]["type"], one["run_count"]) for one in task_runs)


def until(true: Callable[[], bool], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.5)


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

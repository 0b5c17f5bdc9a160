"""Flow runs without their worker: which they are, and that Prefect's Cancel reaches them."""

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from infra import orphans, processes
from infra.services import ask
from infra.state import Record

SLEEP = (sys.executable, "-c", "import time; time.sleep(120)")
FAMILY = (sys.executable, "-c", f"import subprocess, time; subprocess.Popen({SLEEP!r}); time.sleep(120)")


@pytest.fixture
def state(tmp_path: Path) -> Any:
    yield tmp_path
    processes.stop(processes.belonging(tmp_path, marked=True), 0.0)


def flow_run(state: Path, run: str, command: tuple[str, ...] = SLEEP) -> processes.Started:
    return processes.start(command, {orphans.RUN: run}, state / f"{run}.log", state)


def test_an_orphan_is_the_first_of_its_run_and_not_its_workers(state: Path) -> None:
    worker = processes.start(SLEEP, {}, state / "worker.log", state)
    record = Record(state, processes={"worker": worker})
    alone = flow_run(state, "alone", FAMILY)
    deadline = time.monotonic() + 30
    while len(processes.belonging(state, [alone])) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert {run: process.pid for run, process in orphans.orphans(record).items()} == {"alone": alone.pid}
    record.processes["worker"] = alone  # as if it were of the worker's own session
    assert orphans.orphans(record) == {}
    assert set(orphans.orphans(Record(state))) == {"alone"}


def test_cancelled_in_prefect_it_ends_and_prefect_knows(services: Any, state: Path) -> None:
    api = services.prefect_api
    flow = ask(f"{api}/flows/", {"name": "left-by-its-worker"})["id"]
    new = {"flow_id": flow, "state": {"type": "RUNNING"}}
    cancelled, left = (ask(f"{api}/flow_runs/", new)["id"] for _ in range(2))
    going, ending = flow_run(state, left), flow_run(state, cancelled)
    assert orphans.cancel(Record(state), api) == [], "nobody asked"
    ask(f"{api}/flow_runs/{cancelled}/set_state", {"state": {"type": "CANCELLING"}})
    assert orphans.cancel(Record(state), api) == [cancelled]
    assert ending.process() is None and going.process() is not None
    assert ask(f"{api}/flow_runs/{cancelled}")["state"]["type"] == "CANCELLED"
    assert ask(f"{api}/flow_runs/{left}")["state"]["type"] == "RUNNING"


def test_a_prefect_that_is_away_is_asked_again_later(state: Path) -> None:
    alone = flow_run(state, "alone")
    with pytest.raises(OSError):
        orphans.cancel(Record(state), "http://127.0.0.1:9/api")
    assert alone.process() is not None

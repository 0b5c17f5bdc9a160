"""Missed runs of a schedule are caught up once, an overlapping one is skipped; a pool and a schedule can be paused."""

import json
import re
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled, Completed, Crashed, Failed, Running

from infra.services import ask
from tasks import scheduling
from tests.deploying import deploy, start
from tests.tasks.small import tick

START = datetime(2026, 1, 1, tzinfo=UTC)


def run(after_s: float, state: Any = None, scheduled: bool = True) -> FlowRun:
    made = state or Running()
    times = {"start_time": START + timedelta(seconds=after_s)}
    return FlowRun(
        id=uuid4(),
        flow_id=uuid4(),
        state=made,
        state_type=made.type,
        state_name=made.name,
        auto_scheduled=scheduled,
        **times,
    )


def test_of_several_that_are_late_the_first_to_begin_is_the_one_that_runs() -> None:
    first, second, third = run(1), run(2, Completed()), run(3)
    since = [first, second, third]
    assert scheduling.before(since, first) is None
    assert scheduling.before(since, second) == first and scheduling.before(since, third) == first
    # Nor one that failed, nor one that somebody started, with other values perhaps, has done its work.
    idle = [run(0, Cancelled(name=scheduling.SKIPPED)), run(0, Crashed()), run(0, Failed()), run(0, None, False)]
    assert scheduling.before([*idle, first], first) is None
    same = [run(1), run(1)]  # at the same moment one of both, and not the other
    assert sorted([scheduling.before(same, one) is None for one in same]) == [False, True]


def test_nobody_else_is_skipped() -> None:
    assert scheduling.overtaken() == ""  # outside of a flow run
    assert tick.fn() is None


def of(api: str, deployment: str) -> list[dict[str, Any]]:
    query = {"flow_runs": {"deployment_id": {"any_": [deployment]}, "expected_start_time": {"before_": soon()}}}
    return ask(f"{api}/flow_runs/filter", body=query)


def soon() -> str:
    return (datetime.now(UTC) + timedelta(seconds=1)).isoformat()


def send(method: str, url: str, body: dict[str, Any]) -> None:
    """What answers without a body."""
    data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(url, data, headers, method=method)
    urllib.request.urlopen(request, timeout=30).close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_was_missed_is_caught_up_once_and_what_overlaps_is_skipped(deployed: Any, tmp_path: Path) -> None:
    api = deployed.api
    pool, now = f"{api}/work_pools/flow-matching", datetime.now(UTC)
    hourly = [{"schedule": {"interval": 3600.0, "anchor_date": START.isoformat()}, "active": True}]
    late = deploy(deployed, "tick", "late", schedules=hourly, parameters={"name": "late"})  # any number may begin
    often = [{"schedule": {"interval": 20.0, "anchor_date": START.isoformat()}, "active": True}]
    waits = {"concurrency_limit": 1, "concurrency_options": {"collision_strategy": "ENQUEUE"}}
    overlapping = deploy(deployed, "tick", "overlapping", **waits)

    def missed(deployment: str, hours: float) -> list[dict[str, Any]]:
        """The runs that the schedule would have started in these last hours."""
        times = {"start_time": (now - timedelta(hours=hours)).isoformat(), "end_time": now.isoformat()}
        send("POST", f"{api}/deployments/{deployment}/schedule", times | {"min_runs": max(1, int(hours))})
        return of(api, deployment)

    send("PATCH", pool, {"is_paused": True})
    try:
        runs = missed(late, 3.99)
        assert len(runs) >= 3
        time.sleep(8)
        assert {one["state"]["type"] for one in of(api, late)} == {"SCHEDULED"}  # the pool is paused
    finally:
        send("PATCH", pool, {"is_paused": False})
    states = [deployed.wait(one["id"])["state"] for one in runs]
    assert sorted(state["name"] for state in states) == ["Completed", *["Skipped"] * (len(runs) - 1)]
    told = [state["message"] for state in states if state["name"] == "Skipped"]
    assert all(re.match(r"skipped: this run was due at .*, and 'tick of late' has begun since", one) for one in told)

    manual = start(deployed, overlapping, until=str(tmp_path / "may-end"))
    deadline = time.monotonic() + 120
    while ask(f"{api}/flow_runs/{manual}")["state"]["type"] != "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.5)
    ask(f"{api}/deployments/{overlapping}/schedules", body=often)
    send("POST", f"{api}/deployments/{overlapping}/schedule", {"min_runs": 3})
    time.sleep(25)  # one of them is due, and waits
    (tmp_path / "may-end").touch()
    assert deployed.wait(manual)["state"]["type"] == "COMPLETED"
    first = min(
        (one for one in of(api, overlapping) if one["id"] != manual), key=lambda one: one["expected_start_time"]
    )
    state = deployed.wait(first["id"])["state"]
    assert state["name"] == "Skipped" and "was at work then, since " in state["message"], state

    def due() -> int:
        coming = {"deployment_id": {"any_": [late]}, "expected_start_time": {"after_": soon()}}
        return len(ask(f"{api}/flow_runs/filter", body={"flow_runs": coming}))

    send("POST", f"{api}/deployments/{late}/schedule", {})
    assert due() >= 1  # at whole hours: none is on its way to the worker already
    send("POST", f"{api}/deployments/{late}/pause_deployment", {})
    assert due() == 0
    for deployment in (late, overlapping):  # whose next hour comes
        send("DELETE", f"{api}/deployments/{deployment}", {})

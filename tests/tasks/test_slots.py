"""One training at a time, across deployments; a holder that dies lets go; a Prefect that is away is not waited for."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra import local
from infra.services import Services, ask
from infra.state import Record
from tasks import slots
from tests.deploying import deploy, start


def test_a_limit_for_each_set_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert {slots.name_for(address) for address in ("", "auto", "local", "127.0.0.1:6379")} == {"training"}
    here = {f"{host}:6379" for host in ("localhost", socket.gethostname(), socket.gethostbyname(socket.gethostname()))}
    assert {slots.name_for(address) for address in here} == {"training"}
    assert slots.name_for("localhost:6380") == slots.name_for("127.0.0.1:6380") == "training 127.0.0.1:6380"
    assert slots.name_for("192.0.2.77:6379") == "training 192.0.2.77:6379"
    assert slots.name_for("ray://nobody.invalid:1") == "training ray:--nobody.invalid:1"


def test_a_run_of_no_deployment_asks_for_no_slot() -> None:
    said: list[str] = []
    with slots.alone_on_gpus("", said.append):
        assert said == []


def test_a_prefect_that_is_away_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "any")
    said: list[str] = []
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}):  # noqa: SIM117
        with slots.alone_on_gpus("", said.append):
            assert said == ["Prefect gives no slot 'training' (ConnectError); goes on without"]


def seen(file: Path, limit_s: float = 180) -> float:
    deadline = time.monotonic() + limit_s
    while not file.exists() or not file.read_text():
        assert time.monotonic() < deadline, file
        time.sleep(0.2)
    return float(file.read_text())


def test_a_slot_that_is_not_taken_back_undoes_nothing(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def lost(*_: object, **__: object) -> Iterator[None]:
        yield
        raise ConnectionError

    monkeypatch.setattr(slots, "concurrency", lost)
    done = []
    with slots.one_at_a_time("nobody's"):
        done.append("the work")
    with pytest.raises(KeyError), slots.one_at_a_time("nobody's"):
        done.append({}["an error of the work itself"])
    assert done == ["the work"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_deployments_train_one_after_the_other_and_a_dead_one_lets_go(deployed: Any, tmp_path: Path) -> None:
    limit = f"{deployed.api}/v2/concurrency_limits/training"
    both = [deploy(deployed, "hold", name) for name in ("one", "other")]

    def hold(name: str, deployment: str) -> str:
        return start(deployed, deployment, note=str(tmp_path / name), until=str(tmp_path / f"{name}.may-end"))

    first = hold("first", both[0])
    begun = seen(tmp_path / "first.begun")
    assert ask(limit)["active_slots"] == 1
    second, deadline = hold("second", both[1]), time.monotonic() + 180
    query = {"logs": {"flow_run_id": {"any_": [second]}}}
    while not any(
        "waits for the slot 'training'" in line["message"] for line in ask(f"{deployed.api}/logs/filter", query)
    ):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    (tmp_path / "first.may-end").touch()
    assert seen(tmp_path / "second.begun") >= seen(tmp_path / "first.ended") > begun
    assert deployed.wait(first)["state"]["type"] == "COMPLETED"
    third = hold("third", both[0])
    (tmp_path / "third.may-end").touch()
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get("PREFECT__FLOW_RUN_ID", "") == second:
            process.kill()
    dead = time.time()
    assert 0 < seen(tmp_path / "third.begun") - dead < 180  # when the dead one's lease has run out
    assert deployed.wait(third)["state"]["type"] == "COMPLETED"
    deadline = time.monotonic() + 30
    while ask(limit)["active_slots"]:
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_slot_that_was_held_when_the_server_was_killed_is_free_again(services: Services) -> None:
    slots.ensure("short")
    limit = f"{services.prefect_api}/v2/concurrency_limits"
    wanted = {"names": ["short"], "slots": 1, "mode": "concurrency", "lease_duration": 60}
    assert ask(f"{limit}/increment-with-lease", body=wanted)["lease_id"]
    assert ask(f"{limit}/short")["active_slots"] == 1
    server = Record.load(services.state).processes["prefect"].process()
    assert server is not None
    server.kill()
    server.wait(10)
    local.up(services.state)
    assert ask(f"{limit}/short")["active_slots"] == 1
    deadline = time.monotonic() + 180
    while ask(f"{limit}/short")["active_slots"]:
        assert time.monotonic() < deadline
        time.sleep(1)

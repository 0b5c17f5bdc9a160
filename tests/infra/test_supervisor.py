"""What ends is started again, and what ends too often is given up: the real supervisor over stand-ins."""

import os
import signal
import sys
import time

import pytest

from infra import local, processes, supervisor
from infra.services import SUPERVISOR, Service
from infra.state import Record, held
from tests.infra.stand_ins import stand_ins


def wait_for(condition, timeout_s=90.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def said(state) -> str:
    return (state / "logs" / f"{SUPERVISOR}.log").read_text()


def pids(state):
    return {service.name: service.pid for service in local.status(state)}


@pytest.mark.parametrize("name", ["worker", "prefect"])
def test_a_killed_service_comes_back_alone_at_its_port(state, ports, name):
    local.up(state, ports)
    before = pids(state)
    os.kill(before[name], signal.SIGKILL)
    wait_for(lambda: f"{name} (pid {before[name]}) ended" in said(state) and "is healthy" in said(state))
    after = pids(state)
    assert {other for other in before if before[other] != after[other]} == {name}
    assert [one.name for one in local.status(state)] == list(stand_ins(state, ports)), "and in its place"
    assert all(one.healthy for one in local.status(state))
    assert f"{name} started again (pid {after[name]})" in said(state)
    assert local.down(state)[0] == SUPERVISOR
    assert processes.belonging(state, marked=True) == []
    assert not any(processes.port_in_use(port) for port in (ports.prefect, ports.mlflow, ports.ray, ports.ray_client))


def test_the_supervisor_is_not_the_parent_of_what_it_started(state, ports):
    local.up(state, ports)
    before = pids(state)
    os.kill(before["worker"], signal.SIGKILL)
    wait_for(lambda: "is healthy" in said(state))
    os.kill(before[SUPERVISOR], signal.SIGKILL)
    wait_for(lambda: Record.load(state).processes[SUPERVISOR].process() is None)
    assert {one.name for one in local.status(state) if not one.healthy} == {SUPERVISOR}, "its death is seen"
    local.up(state, ports)
    assert all(one.healthy for one in local.status(state))


def test_a_worker_waits_for_its_server(state, ports):
    local.up(state, ports)
    before = pids(state)
    with held(state):  # nobody may start anything
        for name in ("worker", "prefect"):
            os.kill(before[name], signal.SIGKILL)
        wait_for(lambda: said(state).count("ended after") == 2)
        time.sleep(0.3)
        assert "started again" not in said(state)
    wait_for(lambda: said(state).count("is healthy") == 2)
    assert said(state).index("prefect started again") < said(state).index("worker started again")


def test_what_ends_again_and_again_is_given_up_until_up_starts_it(state, ports):
    local.up(state, ports)
    with held(state) as record:  # nobody may start anything
        processes.stop([record.processes["mlflow"].process()], 0.0)
        blocker = processes.start((sys.executable, "-c", BLOCK, str(ports.mlflow)), {}, state / "blocker", state)
        wait_for(lambda: processes.port_in_use(ports.mlflow))
    wait_for(lambda: "given up" in said(state))
    assert "mlflow ended 4 times in a row within 60 s of its start: given up" in said(state)
    assert said(state).count("mlflow started again") == 3
    assert "its log ends: OSError: [Errno 98] Address already in use" in said(state)
    assert "start it with `fm up`" in said(state)
    time.sleep(0.5)
    assert said(state).count("mlflow started again") == 3
    assert {one.name for one in local.status(state) if not one.healthy} <= {"mlflow"}
    processes.stop([blocker.process()], 0.0)
    local.up(state, ports)
    os.kill(pids(state)["mlflow"], signal.SIGKILL)
    wait_for(lambda: said(state).count("mlflow started again") == 4)


BLOCK = """
import socket, sys, time
taken = socket.create_server(("127.0.0.1", int(sys.argv[1])))
time.sleep(60)
"""


def test_embedded_services_have_none(state, ports):
    with local.embedded(state, ports):
        assert SUPERVISOR not in pids(state)


def test_it_ends_when_the_record_names_another(state, ports):
    local.up(state, ports)
    one = Record.load(state).processes[SUPERVISOR]
    with held(state) as record:
        del record.processes[SUPERVISOR]
        record.save()
    wait_for(lambda: one.process() is None)


def test_it_starts_nothing_that_others_changed_meanwhile(state, ports):
    local.up(state, ports)
    record = Record.load(state)
    processes.stop([record.processes.pop(SUPERVISOR).process()], 0.0)
    record.save()
    strangers = processes.Started(1, 2.0)
    assert supervisor.started_again(state, "mlflow", strangers) == record.processes["mlflow"]
    assert pids(state)["mlflow"] == record.processes["mlflow"].pid
    with held(state):
        assert supervisor.started_again(state, "mlflow", record.processes["mlflow"]) is None


def test_a_quick_end_counts_only_in_a_row(state, monkeypatch, capsys):
    clock = [1000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    it, record = supervisor.Watched(), Record(state)
    for lived in (5.0, 5.0, 100.0, 5.0):
        one = processes.Started(int(clock[0]), clock[0] - lived)
        it.again = one
        supervisor.note_end(record, "ray", it, one)
        clock[0] += 1
    assert it.quick == 2
    assert "given up" not in capsys.readouterr().out


def test_a_service_without_needs_can_always_start(state):
    alone = Service("", (), lambda started: False)
    assert supervisor.can_start({}, alone, Record(state))
    needy = Service("", (), lambda started: True, after=("prefect",))
    assert not supervisor.can_start({"prefect": alone}, needy, Record(state))

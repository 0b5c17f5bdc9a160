"""The rules of a set of services, on stand-ins that start in a blink; the real ones are in test_services.py."""

import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest

from fm.errors import SettingsError, UserError
from infra import local, processes
from infra.services import Service
from infra.state import Ports, Record, held, short_folder
from tests.infra.stand_ins import SERVER, stand_ins

ROOT = Path(__file__).parents[2]


def pids(state):
    return {service.name: service.pid for service in local.status(state)}


def test_up_status_up_again_down(state, ports):
    found = local.up(state, ports)
    assert (found.prefect_api, found.ray) == (f"http://127.0.0.1:{ports.prefect}/api", f"127.0.0.1:{ports.ray}")
    before = local.status(state)
    assert [service.name for service in before] == ["prefect", "mlflow", "ray", "worker", "supervisor"]
    assert all(service.healthy and service.memory_bytes > 1e6 for service in before)
    assert all(time.time() - 60 < service.since <= time.time() + 2 for service in before)
    assert local.up(state, Ports.from_base(20000)) == found, "a running set is joined at the ports it has"
    assert pids(state) == {service.name: service.pid for service in before}
    assert local.down(state) == ["supervisor", "worker", "ray", "mlflow", "prefect"]
    assert local.status(state) == local.down(state) == []
    assert not any(processes.port_in_use(port) for port in (ports.prefect, ports.mlflow, ports.ray))


def test_two_at_once_make_one_set(state, ports):
    found = []
    threads = [threading.Thread(target=lambda: found.append(local.up(state, ports))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert len(processes.belonging(state, marked=True)) == 5


def test_two_commands_at_once_make_one_set(state, ports):
    script = f"""
        from pathlib import Path
        from tests.infra.stand_ins import local, stand_ins, Ports
        local.services = stand_ins
        print(local.up(Path({str(state)!r}), Ports.from_base({ports.prefect})).prefect_api)
    """
    command = (sys.executable, "-c", textwrap.dedent(script))
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)]
    said = [one.communicate(timeout=60)[0] for one in both]
    assert said == [f"http://127.0.0.1:{ports.prefect}/api\n"] * 2
    assert {p.pid for p in processes.belonging(state, marked=True)} == set(pids(state).values())
    assert len(pids(state)) == 5


def test_a_killed_service_is_seen_and_up_starts_it_alone(state, ports):
    local.up(state, ports)
    processes.stop([Record.load(state).processes["supervisor"].process()], 1.0)
    local.up(state, ports)
    assert all(service.healthy for service in local.status(state)), "a supervisor is started again as the others are"
    processes.stop([Record.load(state).processes["supervisor"].process()], 1.0)  # which would start mlflow again
    before = pids(state)
    processes.stop([psutil.Process(before["mlflow"])], 0.0)
    assert {service.name: service.healthy for service in local.status(state)}["mlflow"] is False
    local.up(state, ports)
    after = pids(state)
    assert {name for name in before if before[name] != after[name]} == {"mlflow", "supervisor"}


def test_a_port_in_use_is_one_sentence_and_nothing_starts(state, ports):
    with subprocess.Popen((*SERVER, str(ports.mlflow)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as other:
        try:
            while "python" not in processes.port_owner(ports.mlflow):  # taken is not yet listened on
                time.sleep(0.02)
            with pytest.raises(UserError) as raised:
                local.up(state, ports)
            assert f"port {ports.mlflow} is used by python" in str(raised.value)
            assert f"(pid {other.pid})" in str(raised.value)
            assert "--port-base" in str(raised.value)
            assert local.status(state) == []
        finally:
            other.kill()


def test_a_service_that_dies_while_it_starts_takes_the_others_with_it(state, ports, monkeypatch):
    def dying(state, ports):
        dies = Service("", (sys.executable, "-c", "print('no such thing'); raise SystemExit(3)"), lambda started: False)
        return {**stand_ins(state, ports), "ray": dies}

    with local.embedded(state, ports):
        monkeypatch.setattr(local, "services", dying)
        with pytest.raises(UserError, match="ray: ended while it started") as raised:
            local.up(state, ports)
        assert str(state / "logs" / "ray.log") in str(raised.value)
        assert "no such thing" in str(raised.value)
        assert set(pids(state)) == {"prefect", "mlflow"}, "only what this call started is stopped"


def test_a_silent_service_is_given_up(state, ports, monkeypatch):
    monkeypatch.setenv("FM_START_S", "0.5")
    monkeypatch.setattr(local, "healthy", lambda service, started: False)
    with pytest.raises(UserError, match=r"does not answer after 0\.5 s \(FM_START_S, more on a busy machine\)"):
        local.up(state, ports)
    assert local.status(state) == []


@pytest.mark.parametrize("given", ["soon", "-1", "0", "nan"])
def test_a_time_that_is_none_starts_nothing(state, ports, monkeypatch, given):
    monkeypatch.setenv("FM_START_S", given)
    with pytest.raises(SettingsError, match=f"FM_START_S: '{given}' is no time; give seconds"):
        local.up(state, ports)
    assert local.start_s({}) == 180 and processes.belonging(state, marked=True) == []


def test_a_failed_start_leaves_no_short_name_behind(tmp_path, ports, monkeypatch):
    state = tmp_path / "a-name-too-long-for-sockets" / "state"
    monkeypatch.setattr(local, "services", stand_ins)
    with local.embedded(state, ports):
        assert short_folder(state).readlink() == state
        monkeypatch.setenv("FM_START_S", "0.5")
        monkeypatch.setattr(local, "healthy", lambda service, started: False)
        with pytest.raises(UserError, match="does not answer"):
            local.up(state)
        assert short_folder(state).is_symlink(), "what runs still needs it"
    assert not short_folder(state).is_symlink()
    with pytest.raises(UserError, match="does not answer"):
        local.up(state, ports)
    assert not short_folder(state).is_symlink()


def test_embedded_stops_what_it_started_with_the_last_that_holds_it(state, ports):
    with local.embedded(state, ports) as first:
        assert first.ray == ""
        with local.embedded(state, ports) as second:
            assert second == first
        assert len(local.status(state)) == 2
    assert processes.belonging(state, marked=True) == []


def test_embedded_leaves_a_set_that_up_keeps(state, ports):
    with local.embedded(state, ports):
        found = local.up(state, ports)
    assert len(local.status(state)) == 5
    with local.embedded(state) as joined:
        assert joined == found
    assert len(local.status(state)) == 5


def test_a_command_that_joins_leaves_what_it_does_not_need_to_the_supervisor(state, ports):
    local.up(state, ports)
    with held(state) as record:  # so that the supervisor cannot start it again meanwhile
        processes.stop([psutil.Process(record.processes["ray"].pid)], 0.0)
        local.start_missing(record, ["prefect", "mlflow"], ports)
        assert "ray" in record.processes and record.processes["ray"].process() is None
        local.start_missing(record, ["prefect", "mlflow", "ray"], ports)
        assert record.processes["ray"].process()


def test_a_shell_without_the_login_of_the_set_starts_nothing_of_it_again(state, ports):
    local.up(state, ports)
    with held(state) as record:
        record.logins = ["mlflow"]
        processes.stop([psutil.Process(record.processes["mlflow"].pid)], 0.0)
        with pytest.raises(UserError, match="mlflow: asks for a login in this set, and this shell has none"):
            local.start_missing(record, ["prefect", "mlflow"], ports)
        assert "mlflow" not in record.processes


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_embedded_ends_with_its_process(state, ports, number):
    script = f"""
        import signal, time
        from pathlib import Path
        from tests.infra.stand_ins import local, stand_ins, Ports
        local.services = stand_ins
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        with local.embedded(Path({str(state)!r}), Ports.from_base({ports.prefect})):
            print("inside", flush=True)
            time.sleep(60)
    """
    command = (sys.executable, "-c", textwrap.dedent(script))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout.readline() == "inside\n"
        child.send_signal(number)
        child.wait(20)
    if number == signal.SIGKILL:
        assert len(processes.belonging(state, marked=True)) == 2
        with local.embedded(state, ports):
            assert len(Record.load(state).holders) == 2
    assert processes.belonging(state, marked=True) == []


FLOW_RUN = """
import signal, socket, sys, time
def end(number, frame):
    answers = [socket.socket().connect_ex(("127.0.0.1", int(port))) == 0 for port in sys.argv[1:]]
    print(answers, flush=True)
    raise SystemExit
signal.signal(signal.SIGTERM, end)
print("runs", flush=True)
time.sleep(60)
"""


def test_flow_runs_end_while_worker_and_prefect_still_hear_them(state, ports):
    local.up(state, ports)
    run, output = (sys.executable, "-c", FLOW_RUN, str(ports.ray_client), str(ports.prefect)), state / "flow-run"
    processes.start(run, {}, output, state)
    while output.read_text() != "runs\n":
        time.sleep(0.02)
    assert local.down(state) == ["supervisor", "worker", "ray", "mlflow", "prefect"]
    assert output.read_text() == "runs\n[True, True]\n"


def test_down_takes_what_an_interrupted_up_left(state, ports):
    processes.start((*SERVER, str(ports.ray)), {}, state / "log", state)
    assert local.down(state) == []
    assert processes.belonging(state, marked=True) == []


def test_down_and_status_without_a_state_folder(tmp_path):
    assert local.down(tmp_path / "none") == local.status(tmp_path / "none") == []
    assert not (tmp_path / "none").exists()


def test_log_names_the_nearest_service(state, ports):
    with pytest.raises(SettingsError, match="did you mean 'mlflow'"):
        local.log(state, "mlfow")
    with pytest.raises(UserError, match="mlflow: has no log yet"):
        local.log(state, "mlflow")
    with local.embedded(state, ports):
        assert local.log(state, "mlflow").exists()

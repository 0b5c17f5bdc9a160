import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from infra import processes
from infra.processes import Started

SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")
PARENT = f"import subprocess, sys; subprocess.Popen({SLEEP!r}, start_new_session=True); {SLEEP[2]}"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); {SLEEP[2]}"


@pytest.fixture
def state(tmp_path):
    yield tmp_path
    processes.stop(processes.belonging(tmp_path, marked=True), 0.0)


def wait_for(condition, timeout_s=10.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_process_starts_in_its_own_session_with_its_output_in_the_log(state):
    log = state / "one.log"
    one = processes.start(
        (sys.executable, "-c", "import os; print(os.environ['ANSWER'])"), {"ANSWER": "42"}, log, state
    )
    wait_for(lambda: one.process() is None)
    assert log.read_text() == "42\n"
    two = processes.start(SLEEP, {}, log, state)
    assert os.getsid(two.pid) == two.pid != os.getsid(0)
    assert log.with_suffix(".previous.log").read_text() == "42\n"


def test_stop_takes_children_that_left_the_session(state):
    one = processes.start((sys.executable, "-c", PARENT), {}, state / "log", state)
    wait_for(lambda: len(processes.belonging(state, [one])) == 2)
    family = processes.belonging(state, [one])
    processes.stop(family, 5.0)
    assert not any(processes.alive(process) for process in family)


def test_the_mark_finds_orphans_that_no_record_knows(state):
    one = processes.start((sys.executable, "-c", PARENT), {}, state / "log", state)
    wait_for(lambda: len(processes.belonging(state, [one])) == 2)
    os.kill(one.pid, signal.SIGKILL)
    wait_for(lambda: one.process() is None)
    assert processes.belonging(state, [one]) == []
    assert len(processes.belonging(state, marked=True)) == 1
    assert processes.belonging(state / "other", marked=True) == []


def test_a_session_is_ours_after_its_leader_has_ended(state):
    same_session = PARENT.replace(", start_new_session=True", "")
    one = processes.start((sys.executable, "-c", same_session), {}, state / "log", state)
    wait_for(lambda: len(processes.belonging(state, [one])) == 2)
    os.kill(one.pid, signal.SIGKILL)
    wait_for(lambda: one.process() is None)
    assert len(processes.belonging(state, [one])) == 1


def test_what_ignores_sigterm_is_killed_after_the_grace(state):
    one = processes.start((sys.executable, "-c", STUBBORN), {}, state / "log", state)
    wait_for(lambda: (state / "log").read_text() == "ready\n")
    before = time.monotonic()
    processes.stop(processes.belonging(state, [one]), 0.5)
    assert one.process() is None
    assert 0.5 <= time.monotonic() - before < 5


def test_a_zombie_has_ended():
    child = subprocess.Popen((sys.executable, "-c", ""))
    zombie = psutil.Process(child.pid)
    wait_for(lambda: zombie.status() == psutil.STATUS_ZOMBIE)
    assert zombie.is_running()
    assert not processes.alive(zombie)
    assert Started(child.pid, zombie.create_time()).process() is None
    child.wait()


def test_a_recycled_pid_is_another_process():
    stranger = subprocess.Popen(SLEEP, start_new_session=True)
    try:
        remembered = Started(stranger.pid, time.time() - 1000)
        assert remembered.process() is None
        assert processes.belonging("/nowhere", [remembered]) == []
    finally:
        stranger.kill()
        stranger.wait()


def test_a_port_in_use_names_its_process():
    for host in ("127.0.0.1", "0.0.0.0"):
        with socket.create_server((host, 0)) as server:
            port = server.getsockname()[1]
            assert processes.port_in_use(port)
            assert f"(pid {os.getpid()})" in processes.port_owner(port)
        assert not processes.port_in_use(port)


def test_last_line_of_a_log(tmp_path):
    (tmp_path / "empty").touch()
    assert processes.last_line(tmp_path / "none") == processes.last_line(tmp_path / "empty") == ""
    (tmp_path / "log").write_bytes(b"a\nb\n c\xff\n\n")
    assert processes.last_line(tmp_path / "log") == "c\ufffd"

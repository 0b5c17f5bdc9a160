"""What a worker tells of an item, without Ray; with Ray: test_cluster.py."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tasks.forwarding import LINES
from tasks.items import BEGIN_S, Outcome, Try, Word, end, heard, telling


def loud(item: Any) -> Any:
    print("on one stream")
    sys.stderr.write("and on the other\n")
    if item == "fails":
        raise ValueError(item)
    if item == "floods":
        print("\n".join(map(str, range(100_000))))
    return item


def test_a_worker_tells_that_it_has_begun_then_its_lines_then_the_value(capsys: pytest.CaptureFixture[str]) -> None:
    begun, said, value = telling(loud)("any")
    assert (begun, value) == (Word(socket.gethostname(), os.getpid()), "any")
    assert said.lines == ("on one stream", "and on the other")
    assert capsys.readouterr() == ("on one stream\n", "and on the other\n")  # in Ray's log, too
    print("outside")
    assert capsys.readouterr().out == "outside\n"


def test_lines_of_an_item_that_fails_are_told_before_it_does() -> None:
    words = telling(loud)("fails")
    next(words)
    assert next(words).lines[0] == "on one stream"
    with pytest.raises(ValueError, match="fails"):
        next(words)


def test_a_flood_is_told_in_its_first_lines() -> None:
    _, said, _ = telling(loud)("floods")
    assert len(said.lines) == LINES + 1 and said.lines[-1].endswith(" lines more, in Ray's log of the worker")


def test_an_item_hangs_that_has_run_for_longer() -> None:
    ago, word = time.monotonic() - 10, Word("here", 1)
    assert Try(0, "any", word=word, since=ago).hangs(9) and not Try(0, "any", word=word, since=ago).hangs(60)
    assert not Try(0, "any", word=word, since=ago).hangs(0)


def test_one_that_has_not_begun_has_time_to_start_a_worker_and_then_hangs_too() -> None:
    assert not Try(0, "any", since=time.monotonic() - 10).hangs(9)
    assert Try(0, "any", since=time.monotonic() - 10 - BEGIN_S).hangs(9)
    assert not Try(0, "any", since=time.monotonic() - 10 - BEGIN_S).hangs(0)


def test_what_becomes_of_one_told_to_end_before_it_began() -> None:
    ray = pytest.importorskip("ray")
    silent = Try(0, "any", since=time.monotonic() - 10 - BEGIN_S)
    assert heard(ray, ended(ray.exceptions.TaskCancelledError()), silent, 9) == (
        None,
        f"no worker had begun it after more than {9 + BEGIN_S:.0f} s",
    )
    said, failed = heard(ray, ended(ray.exceptions.WorkerCrashedError()), silent, 9)
    assert failed == "it did nothing after more than 9 s and was ended"
    assert isinstance(said, Outcome) and str(said.error).startswith(f"{failed}, 1 times in a row")


def ended(error: Exception) -> Iterator[Any]:
    yield from ()
    raise error


def test_a_process_is_ended_on_its_own_machine_alone() -> None:
    sleeps = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    assert end("another", sleeps.pid) and sleeps.poll() is None
    assert end(socket.gethostname(), sleeps.pid) and sleeps.wait(10) == -9
    assert end(socket.gethostname(), sleeps.pid)  # it is gone already


def test_a_process_that_computes_is_let_be() -> None:
    computes = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        assert not end(socket.gethostname(), computes.pid) and computes.poll() is None
        computes.send_signal(signal.SIGSTOP)
        assert end(socket.gethostname(), computes.pid) and computes.wait(10) == -9
    finally:
        computes.kill()

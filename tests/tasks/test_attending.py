"""Signals that come while work runs in a thread."""

import os
import signal
import threading
import time
from typing import Any

import pytest

from tasks.attending import attended


def test_signals_are_heard_while_work_runs() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        attended(lambda: time.sleep(5), tick=interrupted, every_s=0.05)
    assert time.monotonic() - start < 4


def test_a_signal_lets_the_work_end_in_order() -> None:
    told, ended = threading.Event(), threading.Event()

    def work() -> None:
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)  # heard while the main thread waits
        assert told.wait(5)
        time.sleep(0.2)
        ended.set()

    def interrupted(*_: Any) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, interrupted)
    try:
        with pytest.raises(SystemExit):
            attended(work, leave=told.set)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.is_set()

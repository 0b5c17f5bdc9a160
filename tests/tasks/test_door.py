"""A door that closes waits for those inside and lets nobody in."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fm.errors import UserError
from tasks.door import SETTLING_S, Door, settle, shut


def test_closing_waits_for_those_inside_and_lets_nobody_in() -> None:
    door, inside, leave, closed = Door(), threading.Event(), threading.Event(), threading.Event()

    def ask() -> None:
        with door.asking():
            inside.set()
            leave.wait(10)

    def close() -> None:
        door.close()
        closed.set()

    asking, closing = threading.Thread(target=ask), threading.Thread(target=close)
    asking.start()
    assert inside.wait(10)
    closing.start()
    assert not closed.wait(0.2)
    with pytest.raises(UserError, match="the work on Ray has ended"), door.asking():
        pass
    leave.set()
    assert closed.wait(10)
    asking.join()
    door.open = True
    with door.asking():
        pass


def test_an_error_inside_leaves_the_door_free() -> None:
    door = Door()
    with pytest.raises(ValueError, match="inside"), door.asking():
        raise ValueError("inside")
    door.close()  # at once


def test_a_start_under_way_is_waited_for_and_nothing_else() -> None:
    with ThreadPoolExecutor(1) as keeper:
        before = time.monotonic()
        settle(keeper)
        assert time.monotonic() - before < SETTLING_S
        start = keeper.submit(time.sleep, 0.5)
        settle(keeper)
        assert start.done() and time.monotonic() - before > 0.5 + SETTLING_S


def test_a_shutdown_that_does_not_come_back_ends_its_process() -> None:
    """If it is leaving; else it may take its time, for the work is done, and code 143 would be untrue."""
    script = "from tasks.door import shut; import time; shut(lambda: time.sleep({}), {}); print('came back')"
    for waits, limit, ended in ((60, 0.5, ("", 143)), (0, 0.5, ("came back\n", 0)), (1, None, ("came back\n", 0))):
        asked = script.format(waits, limit)
        done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, timeout=60)
        assert (done.stdout, done.returncode) == ended, done.stderr


def test_an_error_of_a_shutdown_is_raised() -> None:
    def fails() -> None:
        raise OSError("no such Ray")

    with pytest.raises(OSError, match="no such Ray"):
        shut(fails, None)

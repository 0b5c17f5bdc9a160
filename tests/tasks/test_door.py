"""A door that closes waits for those inside and lets nobody in."""

import subprocess
import sys
import threading

import pytest

from fm.errors import UserError
from tasks.door import Door


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


def test_a_shutdown_that_does_not_come_back_is_left_behind_and_not_called_at_exit() -> None:
    """In a process of its own, since it ends with one: Ray's shutdown at exit would wait for ever too."""
    script = """
import atexit, threading, time
from tasks.door import shut
calls = []
def shutdown():
    calls.append(1)
    threading.Event().wait()
atexit.register(shutdown)
start = time.monotonic()
shut(shutdown, limit_s=0.2)
print(len(calls), time.monotonic() - start < 5)
shut(lambda: calls.append(2), limit_s=5)
print(calls)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "1 True\n[1, 2]\n" and done.returncode == 0, done.stderr

"""How a session of Ray ends: nobody asks Ray for anything any more, a start under way is waited for, and it is shut."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, wait
from contextlib import contextmanager

from fm.errors import UserError

ENDING_S = 5  # that calls under way have
STARTING_S, SETTLING_S = 30, 1.0  # that a start of Ray may take, and rests after it
SHUT_S = 10  # that Ray's own shutdown has in a process that is leaving


class Door:
    """Between this process's threads and Ray. Closed, it lets none in, once those inside are out: a call of Ray while
    that ends would wait for ever, and one after it start another Ray."""

    def __init__(self) -> None:
        self.open, self._inside, self._changed = True, 0, threading.Condition()

    @contextmanager
    def asking(self) -> Iterator[None]:
        """For the length of some calls.

        Raises: as `check`.
        """
        with self._changed:
            self.check()
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def check(self) -> None:
        """Raises: UserError if it is closed; it is nobody's to try again."""
        if not self.open:
            raise UserError("the work on Ray has ended", "this session", "start again")

    def close(self) -> None:
        """Waits for calls under way, `ENDING_S` at most."""
        with self._changed:
            self.open = False
            self._changed.wait_for(lambda: not self._inside, timeout=ENDING_S)


def settle(keeper: Executor) -> None:
    """Waits for what the thread that starts Ray is at, and a moment longer: the shutdown of a Ray that is just starting
    would wait for ever."""
    if wait([keeper.submit(int)], 0.1).not_done:
        wait([keeper.submit(time.sleep, SETTLING_S)], STARTING_S)


def shut(shutdown: Callable[[], None], limit_s: float | None) -> None:
    """Calls Ray's shutdown. With a limit, this process ends here, with SIGTERM's code, if it has not come back in time,
    which in Ray's compiled code may be never. A Ray that it started ends with it; its services stay, as after SIGKILL,
    for the next command, which takes them over and stops them."""
    ended = threading.Event()

    def watch() -> None:
        if not ended.wait(limit_s):
            os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    try:
        shutdown()
    finally:
        ended.set()

"""Whether this process may ask Ray for anything: not while its session ends, nor after."""

import atexit
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from fm.errors import UserError

ENDING_S = 5  # that calls under way have
SHUT_S = 15  # that Ray's own shutdown has
RAYS = ("raylet", "gcs_server")  # what a Ray of this process's own consists of


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


def shut(shutdown: Callable[[], None], limit_s: float = SHUT_S) -> None:
    """Calls Ray's shutdown, which with work under way may wait in its compiled code for ever.

    One that has not come back in time is left behind, the Ray that this process started killed, and Ray's own call at
    exit, which would wait for it, left out.
    """
    calling = threading.Thread(target=shutdown, daemon=True)
    calling.start()
    calling.join(limit_s)
    if calling.is_alive():
        atexit.unregister(shutdown)
        for process in psutil.Process(os.getpid()).children(recursive=True):
            if process.name() in RAYS:
                process.kill()

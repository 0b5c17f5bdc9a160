"""How a training is told to leave: SIGTERM, or a file that somebody makes where signals do not reach."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOOK_S = 0.5  # between two looks at a file that may lie on network storage


@contextmanager
def told_to_leave(file: Path | None = None) -> Iterator[Callable[[], bool]]:
    """A flag for `fm.training.train`'s `stop`: whether this process was sent SIGTERM, or `file` is there.

    The signal is heard in the main thread only; elsewhere (in Ray's workers) whoever runs the process hears it.
    """
    heard = threading.Event()
    looked = -LOOK_S

    def told() -> bool:
        nonlocal looked
        if file is not None and not heard.is_set() and time.monotonic() - looked >= LOOK_S:
            looked = time.monotonic()
            if file.exists():
                heard.set()
        return heard.is_set()

    if threading.current_thread() is not threading.main_thread():
        yield told
        return
    before = signal.signal(signal.SIGTERM, lambda *_: heard.set())
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)

"""Long work in a thread, so that the main thread hears signals and can tell how far it is."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")
LEAVE_S = 8.0  # so that all work has ended ten seconds after Cancel


def attended(
    work: Callable[[], T],
    tick: Callable[[], None] = lambda: None,
    every_s: float = 0.5,
    leave: Callable[[], None] | None = None,
) -> T:
    """Runs `work` in a thread and `tick` here, so that the main thread hears signals while it goes on.

    A signal that ends this process (Prefect's cancel, SIGTERM, Ctrl-C) first calls `leave`, if given, and gives the
    work `LEAVE_S` to end in order.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        while wait([future], every_s).not_done:  # not Thread.join: a signal there takes the thread for ended
            tick()
        tick()
    except Exception:
        raise
    except BaseException:
        if leave:
            leave()
            wait([future], LEAVE_S)
        raise
    return future.result()

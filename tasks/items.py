"""One item of mapped work: what its worker tells of it (that it has begun, lines, the value), and the driver's tries.

Ray is handed in, for `tasks/cluster.py` alone imports it.
"""

import io
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from typing import Any, TextIO

import psutil

from fm.errors import MachineError, UserError
from tasks.forwarding import BYTES, LINES, LONGEST
from tasks.losses import unwrapped


@dataclass(frozen=True)
class Outcome:
    """What became of one item: its value, or the error that ended it after all retries."""

    item: Any
    value: Any = None
    error: Exception | None = None

    def needed(self) -> Any:
        """The value.

        Raises: the error that ended it.
        """
        if self.error:
            raise self.error
        return self.value


@dataclass(frozen=True)
class Word:
    """What a worker says of its item before the value: at once, with no lines, that it has begun; then its lines."""

    host: str
    process: int
    lines: tuple[str, ...] = ()


BEGIN_S = 60.0  # in which a worker starts and imports what its item needs, on a busy machine


@dataclass(frozen=True)
class Try:
    """An item under way: its place among all, the machine it is on, those that failed it before; what its worker said
    last; since when it has run, or been asked for while no worker has said a word; and whether it was told to end."""

    place: int
    item: Any
    node: str = ""
    failed_on: tuple[str, ...] = ()
    word: Word | None = None
    since: float = field(default_factory=time.monotonic)
    told: bool = False

    @property
    def name(self) -> str:
        return getattr(self.item, "name", "")

    def hangs(self, longest_s: float) -> bool:
        """Whether it has run for longer than this, or not begun long after it; 0: it may for ever."""
        return 0 < longest_s < time.monotonic() - self.since - (0 if self.word else BEGIN_S)


def telling(fn: Callable[[Any], Any]) -> Callable[[Any], Iterator[Any]]:
    """`fn` as a worker streams it: Words, also of an item that fails, and the value."""

    def work(item: Any) -> Iterator[Any]:
        me = socket.gethostname(), os.getpid()
        yield Word(*me)
        printed = io.StringIO()
        try:
            with redirect_stdout(_Both(sys.stdout, printed)), redirect_stderr(_Both(sys.stderr, printed)):
                value = fn(item)
        finally:
            yield Word(*me, _first(printed.getvalue()))
        yield value

    return work


class _Both(io.TextIOBase):
    """A worker's stream, which Ray keeps as its log, and the beginning of what is written there."""

    def __init__(self, stream: TextIO, kept: io.StringIO) -> None:
        self.stream, self.kept = stream, kept

    def write(self, text: str) -> int:
        self.kept.write(text[: max(0, BYTES - self.kept.tell())])
        return self.stream.write(text)

    def flush(self) -> None:
        self.stream.flush()


def _first(text: str) -> tuple[str, ...]:
    lines = [line[:LONGEST] for line in text.splitlines() if line.strip()]
    more = [f"{len(lines) - LINES:,} lines more, in Ray's log of the worker"] if len(lines) > LINES else []
    return *lines[:LINES], *more


LOOK_S, IDLE = 2.0, 0.01  # how long a worker is looked at, and the share of a core below which it computes nothing


def end(host: str, process: int) -> bool:
    """Ends a worker that hangs, on its machine: it may be stopped, and hear nothing else -> whether it did hang; one
    that computes (on a GPU too its process is at work) is slow, and goes on."""
    if socket.gethostname() != host:
        return True
    try:
        worker = psutil.Process(process)
        before = sum(worker.cpu_times()[:2])
        time.sleep(LOOK_S)
        if sum(worker.cpu_times()[:2]) - before > IDLE * LOOK_S:
            return False
        worker.kill()
    except psutil.NoSuchProcess:
        pass  # it has ended meanwhile
    return True


def dismiss(host: str, process: int) -> None:
    """Ends a worker that has nothing to do, on its machine, and returns when its memory is free."""
    if socket.gethostname() == host:
        with suppress(psutil.NoSuchProcess):
            worker = psutil.Process(process)
            if worker.name().startswith("ray::"):  # no other process that has its number now
                worker.kill()
                worker.wait(LOOK_S)


def heard(ray: Any, stream: Any, this: Try, longest_s: float) -> tuple[Word | Outcome | None, str]:
    """The next that an item's worker says, a Word or the end; of one that its machine failed also how. None: it was
    told to end before it began; whether its worker hung or it waited for slots that others hold, Ray does not say."""
    try:
        said = ray.get(next(stream))
        return (said if isinstance(said, Word) else Outcome(this.item, said)), ""
    except ray.exceptions.RayTaskError as error:  # that `fn` raised
        own = unwrapped(error)
        if not isinstance(own, MachineError | OSError | MemoryError):
            return Outcome(this.item, error=own), ""
        why = str(own) if isinstance(own, UserError) else f"{type(own).__name__}: {own}"
        return Outcome(this.item, error=own), why
    except ray.exceptions.RayError as error:
        if not this.word and isinstance(error, ray.exceptions.TaskCancelledError):
            return None, f"no worker had begun it after more than {longest_s + BEGIN_S:,.0f} s"
        failed, mend = _died_of(ray, error), "a machine short of memory wants fewer slots"
        if this.hangs(longest_s):
            failed = f"it did nothing after more than {longest_s:,.0f} s and was ended"
            mend = "one that only waits for long wants a longer silent_s of the place (FM_SILENT_S)"
    what = f"{failed}, {len(this.failed_on) + 1} times in a row"
    mend = f"start again, which keeps what is done; {mend}"
    return Outcome(this.item, error=UserError(what, this.name, mend)), failed


def _died_of(ray: Any, error: Exception) -> str:
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "its machine ran out of memory"
    return "its machine went away" if isinstance(error, ray.exceptions.NodeDiedError) else "its worker died"

"""Where a RUN lies: in a folder, or at an address (`s3://bucket/runs/x`), of which each machine has a copy to work in.

All else works in folders. A RUN that is a folder is its own copy: each function here hands it back and does no more.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from fm.data.addresses import is_address, settled
from fm.errors import UserError
from fm.files import alone, write_json
from fm.mirror import DRIVER, LEAVE, MACHINE, WORKER, Mirror

EVERY_S = 2.0  # between two looks at what is to be sent or fetched; each costs some requests
MACHINE_S = 30.0  # between two of those of a machine that only trains along
LEASE_S, RENEW_S = 60.0, 15.0  # a driver that has not said for so long that it is at work is dead
PATIENCE_S = 300.0  # for so long a training goes on while nothing can be sent
LEASE = ".lease"

_held: dict[Path, Mirror] = {}  # what this process is the driver of, by the copies' folders


def here(run: str | Path, side: str = DRIVER) -> Path:
    """The folder of RUN on this machine, as it is."""
    return Mirror(str(run), side).folder if is_address(run) else Path(run)


def of(folder: Path) -> str:
    """RUN as every machine finds it: the address whose copy this process keeps in the folder, or the folder."""
    return _held[folder].address if folder in _held else settled(folder)


def pulled(run: str | Path, weights: str = "") -> Path:
    """RUN's folder to read from: of an address a copy, brought up to date, with the checkpoint of these weights.

    Raises: UserError if the address cannot be read.
    """
    if not is_address(run):
        return Path(run)
    mirror = Mirror(str(run), DRIVER)
    with mirror.turn(), ExitStack() as stack:
        sides = [DRIVER, WORKER, MACHINE]
        try:
            stack.enter_context(alone(mirror.folder))
        except UserError:  # a driver of this machine is at work in this very copy, and knows better what it wrote
            sides = [WORKER, MACHINE]
        mirror.pull(*sides)
        if weights and not (mirror.folder / "recipe.json").exists():
            raise UserError("no training here (it has no recipe.json)", mirror.address)
        if weights:
            mirror.fetch_checkpoint(weights)
    return mirror.folder


def refresh(folder: Path) -> None:
    """Brings into the folder what workers left at the address of which it is a copy, the newest checkpoint whole."""
    if mirror := _held.get(folder):
        with mirror.turn():
            mirror.pull(WORKER, MACHINE)
            mirror.fetch_checkpoint()


def at_work(run: str | Path) -> bool:
    """Whether somebody is at work in the RUN at an address, or was a minute ago."""
    lease = _lease(Mirror(str(run), DRIVER))
    return lease is not None and not _is_dead(lease)


@contextmanager
def held(run: str | Path) -> Iterator[Path]:
    """RUN for one driver at a time -> its folder; of an address a copy, kept like it during the block and after.

    Raises: UserError if another is at work there, or the address cannot be read or written.
    """
    if not is_address(run):
        folder = Path(run).resolve()
        with alone(folder):
            yield folder
        return
    mirror = Mirror(str(run), DRIVER)
    with ExitStack() as stack:
        with mirror.turn():
            stack.enter_context(alone(mirror.folder))
            stack.enter_context(_leased(mirror))
            for name in mirror.there(DRIVER, MACHINE):
                if name.startswith(".ray/"):  # what a driver that was killed told its workers, or they told it
                    mirror.remove(name)
            mirror.pull(DRIVER, WORKER, MACHINE, forget=True)
            mirror.fetch_checkpoint()

        def same() -> None:
            _check(mirror, _me())
            with mirror.turn():
                mirror.push(DRIVER)
                mirror.pull(WORKER, MACHINE)

        _held[mirror.folder] = mirror
        stack.callback(_held.pop, mirror.folder)
        with _kept(same):
            yield mirror.folder


def joined(run: str | Path) -> Path:
    """RUN's folder on a machine of the training; of an address a copy, with the logs that were left there before."""
    folder = here(run, WORKER)
    if is_address(run):
        mirror = Mirror(str(run), WORKER)
        with suppress(UserError), mirror.turn():
            mirror.pull(MACHINE)
    return folder


def sent(run: str | Path) -> None:
    """Sends what this machine of the training left in its copy of RUN (logs, errors, its load), if it can."""
    if is_address(run):
        mirror = Mirror(str(run), WORKER)
        with suppress(UserError), mirror.turn():
            mirror.push(MACHINE)


@contextmanager
def working(run: str | Path, first: bool) -> Iterator[Path]:
    """RUN's folder for a worker of a training; of an address a copy, from which is sent what the worker leaves there.

    If the `first` worker can send nothing for minutes, or another driver takes over, `LEAVE` appears in its copy.

    Raises: UserError if the address cannot be read, or what the first worker left cannot be sent at the end.
    """
    if not is_address(run):
        yield Path(run)
        return
    mirror = Mirror(str(run), WORKER)
    (mirror.folder / LEAVE).unlink(missing_ok=True)  # of an earlier training
    if not first:
        with _every(MACHINE_S, lambda: sent(run)):
            yield mirror.folder
        return sent(run)
    with mirror.turn():
        mirror.pull(DRIVER, WORKER, forget=True)
        mirror.fetch_checkpoint()
    driver, sent_at, given_up = _lease(mirror), time.monotonic(), False

    def leave() -> None:
        (mirror.folder / LEAVE).parent.mkdir(exist_ok=True)
        (mirror.folder / LEAVE).touch()

    def look() -> None:
        if mirror.read(LEAVE) is not None or _is_other(_lease(mirror), driver):
            leave()

    def send() -> None:
        nonlocal sent_at, given_up
        try:
            _check(mirror, driver)
            with mirror.turn():
                mirror.push(WORKER, MACHINE)
            sent_at = time.monotonic()
        except UserError:
            if time.monotonic() - sent_at > PATIENCE_S:
                given_up = True
                leave()
            raise

    with _every(EVERY_S / 2, look), _kept(send):
        yield mirror.folder
    if given_up:
        what = f"nothing could be written for {PATIENCE_S / 60:.0f} minutes, so the training left; all is there now"
        raise UserError(what, mirror.address, "start again")


@contextmanager
def _kept(same: Callable[[], None]) -> Iterator[None]:
    """Keeps copy and address the same during the block, and at its end."""
    try:
        with _every(EVERY_S, same):
            yield
    except BaseException:
        with suppress(UserError):  # what ended the block is to be told
            same()
        raise
    same()


@contextmanager
def _every(pause_s: float, work: Callable[[], None]) -> Iterator[None]:
    """Does this on a thread again and again; what the address refuses is tried the next time."""
    ended = threading.Event()

    def loop() -> None:
        while not ended.wait(pause_s):
            with suppress(UserError, OSError):
                work()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _leased(mirror: Mirror) -> Iterator[None]:
    """A file at the address says during the block that this process is the driver there.

    Raises: UserError if another is.
    """
    mine = _me()

    def renew() -> None:
        _check(mirror, mine)
        write_json(mirror.folder / LEASE, mine | {"time": time.time()})
        mirror.put(LEASE)

    renew()
    _check(mirror, mine)  # whoever wrote last has it
    try:
        with _every(RENEW_S, renew):
            yield
    finally:
        with suppress(UserError):
            _check(mirror, mine)
            mirror.remove(LEASE)


def _me() -> dict[str, Any]:
    return {"host": socket.gethostname(), "process": os.getpid()}


def _check(mirror: Mirror, driver: dict[str, Any] | None) -> None:
    """Raises: UserError if another than this driver is at work at the address."""
    lease = _lease(mirror)
    if lease and _is_other(lease, driver) and not _is_dead(lease):
        what = f"another run is at work here, process {lease['process']} of {lease['host']}"
        mend = "wait for its end, or a minute if it was killed, or choose another"
        raise UserError(what, mirror.address, mend)


def _lease(mirror: Mirror) -> dict[str, Any] | None:
    """Who said last that it is the driver at the address, and when."""
    said = mirror.read(LEASE)
    return json.loads(said) if said else None


def _is_other(lease: dict[str, Any] | None, driver: dict[str, Any] | None) -> bool:
    return bool(lease and driver) and any(lease[key] != driver[key] for key in ("host", "process"))  # type: ignore[index]


def _is_dead(lease: dict[str, Any]) -> bool:
    if lease["host"] == socket.gethostname():
        try:
            os.kill(lease["process"], 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # another user's
    return time.time() - lease["time"] > LEASE_S

"""Where a RUN lies: in a folder, or at an address (`s3://bucket/runs/x`), of which each machine has a copy to work in.

All else works in folders. A RUN that is a folder is its own copy: each function here hands it back and does no more.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from fm.data.addresses import is_address, settled
from fm.errors import UserError
from fm.files import alone
from fm.leases import check, every, has, is_taken, leased
from fm.mirror import DRIVER, LEAVE, MACHINE, WORKER, Mirror

EVERY_S = 2.0  # between two looks at what is to be sent or fetched; each costs some requests
MACHINE_S = 30.0  # between two of those of a machine that only trains along
PATIENCE_S = 300.0  # for so long a training goes on while nothing can be sent

_held: dict[Path, tuple[Mirror, str]] = {}  # what this process is the driver of, and as whom, by the copies' folders
_drivers: dict[str, str] = {}  # whom this process works for, by RUN


def here(run: str | Path, side: str = DRIVER) -> Path:
    """The folder of RUN on this machine, as it is."""
    return Mirror(str(run), side).folder if is_address(run) else Path(run)


def of(folder: Path) -> str:
    """RUN as every machine finds it: the address whose copy this process keeps in the folder, or the folder."""
    return _held[folder][0].address if folder in _held else settled(folder)


def driver_of(folder: Path) -> str:
    """Who this process is as the driver of the RUN of which it keeps a copy in the folder: a word for its workers."""
    return _held[folder][1] if folder in _held else ""


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


def refresh(folder: Path, checkpoint: bool = True) -> None:
    """Brings into the folder what workers left at the address of which it is a copy; the newest checkpoint if asked.

    Raises: UserError if another driver has taken over there, or the address cannot be read.
    """
    if folder in _held:
        mirror, driver = _held[folder]
        check(mirror, driver)
        with mirror.turn():
            mirror.pull(WORKER, MACHINE)
            if checkpoint:
                mirror.fetch_checkpoint()


def at_work(run: str | Path) -> bool:
    """Whether somebody is at work in the RUN at an address, or was a minute ago."""
    return is_taken(Mirror(str(run), DRIVER))


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
            driver = stack.enter_context(leased(mirror))
            for name in mirror.there(DRIVER, MACHINE):
                if name.startswith(".ray/"):  # what a driver that was killed told its workers, or they told it
                    mirror.remove(name)
            mirror.pull(DRIVER, WORKER, MACHINE, forget=True)
            mirror.fetch_checkpoint()

        def same() -> None:
            check(mirror, driver)
            with mirror.turn():
                mirror.push(DRIVER)
                mirror.pull(WORKER, MACHINE)

        _held[mirror.folder] = mirror, driver
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
    """Sends what this machine of the training left in its copy of RUN (logs, errors, its load), if it can and may."""
    if is_address(run):
        mirror = Mirror(str(run), WORKER)
        with suppress(UserError), mirror.turn():
            check(mirror, _drivers.get(str(run), ""))
            mirror.push(MACHINE)


@contextmanager
def working(run: str | Path, first: bool, driver: str = "") -> Iterator[Path]:
    """RUN's folder for a worker of a training; of an address a copy, from which is sent what the worker leaves there.

    If the `first` worker can send nothing for minutes, or another takes over from its `driver` (as `driver_of` names
    it), `LEAVE` appears in its copy; in the latter case nothing is sent any more.

    Raises: UserError if the address cannot be read, or what the first worker left cannot be sent at the end.
    """
    if not is_address(run):
        yield Path(run)
        return
    mirror, _drivers[str(run)] = Mirror(str(run), WORKER), driver
    (mirror.folder / LEAVE).unlink(missing_ok=True)  # of an earlier training
    if not first:
        with every(MACHINE_S, lambda: sent(run)):
            yield mirror.folder
        return sent(run)
    with mirror.turn():
        mirror.pull(DRIVER, WORKER, forget=True)
        mirror.fetch_checkpoint()
    sent_at, given_up = time.monotonic(), False

    def leave() -> None:
        (mirror.folder / LEAVE).parent.mkdir(parents=True, exist_ok=True)
        (mirror.folder / LEAVE).touch()

    def look() -> None:
        if mirror.read(LEAVE) is not None or not has(mirror, driver):
            leave()

    def send() -> None:
        nonlocal sent_at, given_up
        try:
            if not has(mirror, driver):  # which is for the driver to say: a worker that fails is tried again
                return leave()
            with mirror.turn():
                mirror.push(WORKER, MACHINE)
            sent_at = time.monotonic()
        except UserError:
            if time.monotonic() - sent_at > PATIENCE_S:
                given_up = True
                leave()
            raise

    with every(EVERY_S / 2, look), _kept(send):
        yield mirror.folder
    if given_up:
        what = f"nothing could be written for {PATIENCE_S / 60:.0f} minutes, so the training left; all is there now"
        raise UserError(what, mirror.address, "start again")


@contextmanager
def _kept(same: Callable[[], None]) -> Iterator[None]:
    """Keeps copy and address the same during the block, and at its end."""
    try:
        with every(EVERY_S, same):
            yield
    except BaseException:
        with suppress(UserError):  # what ended the block is to be told
            same()
        raise
    same()

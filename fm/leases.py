"""Who is the driver of a RUN that lies at an address: one at a time, by a file there that it writes again and again.

What a driver does there, and what becomes of its workers when another takes over, is the business of `fm/runs.py`.
"""

import json
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from fm.data.addresses import unless_absent
from fm.errors import UserError
from fm.files import write_json
from fm.mirror import Mirror

LEASE_S, RENEW_S = 60.0, 15.0  # a driver that has not said for so long that it is at work is dead
WITHDRAW_S, PAUSE_S = 3.0, 0.5  # in which the others go of those who ask at the same time; between two looks at them
LEASES = ".leases"

Lease = dict[str, Any]


@contextmanager
def every(pause_s: float, work: Callable[[], None]) -> Iterator[None]:
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
def leased(mirror: Mirror) -> Iterator[str]:
    """Who this process is as the driver there during the block; as long as a file of that name lies there it is.

    Each puts its own file and then looks: who finds no other has the RUN, so of two at most one has, for reads there
    show what was written before. Of those who ask at once the first by name lets the others withdraw. A file that was
    not renewed for `LEASE_S` is removed by whoever comes next, so clocks may differ by `LEASE_S - RENEW_S`, and what a
    process sends that slept longer than that, between a look and the request after it, is not stopped.

    Raises: UserError if another is.
    """
    driver, mine, renewed = secrets.token_hex(8), _me(), 0.0
    name = f"{LEASES}/{driver}"
    shutil.rmtree(mirror.folder / LEASES, ignore_errors=True)  # of one that was killed

    def renew() -> None:
        nonlocal renewed
        if renewed:
            check(mirror, driver)
        said = time.time()
        write_json(mirror.folder / name, mine | {"time": said})
        mirror.put(name)
        if time.time() - renewed > LEASE_S - RENEW_S:  # another may have come meanwhile
            _alone(mirror, driver)
        renewed = said

    try:
        while time.time() - renewed > LEASE_S - RENEW_S:  # once, unless the address is that slow
            renew()
        with every(RENEW_S, renew):
            yield driver
    finally:
        with suppress(UserError):
            mirror.remove(name)


def _me() -> Lease:
    """This process, and where its number counts: in which boot of which machine, in which space of processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = f"{boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:  # no Linux
        space = ""
    return {"host": socket.gethostname(), "process": os.getpid(), "space": space}


def _alone(mirror: Mirror, driver: str) -> None:
    """Removes what the dead left.

    Raises: UserError, with this driver's own file removed, if another is at work there, or asks and comes first.
    """
    until = time.monotonic() + WITHDRAW_S
    while True:
        others = _leases(mirror)
        own = others.pop(driver, None)
        for other in [other for other, lease in others.items() if _is_dead(lease)]:
            mirror.remove(f"{LEASES}/{other}")
            del others[other]
        if own and not others:
            return
        if not own or min(others) < driver or time.monotonic() > until:
            mirror.remove(f"{LEASES}/{driver}")
            raise _taken(mirror, others)
        time.sleep(PAUSE_S)


def is_taken(mirror: Mirror) -> bool:
    """Whether somebody is at work at the address, or was a minute ago."""
    return not all(_is_dead(lease) for lease in _leases(mirror).values())


def has(mirror: Mirror, driver: str) -> bool:
    """Whether nobody has taken over from this driver."""
    return not driver or mirror.read(f"{LEASES}/{driver}") is not None


def check(mirror: Mirror, driver: str) -> None:
    """Raises: UserError if another has taken over from this driver."""
    if not has(mirror, driver):
        raise _taken(mirror, _leases(mirror))


def _taken(mirror: Mirror, leases: dict[str, Lease]) -> UserError:
    who = ", ".join(f"process {lease['process']} of {lease['host']}" for lease in leases.values())
    return UserError(
        f"another run is at work here, {who}" if who else "another run was at work here",
        mirror.address,
        "wait for its end, or a minute if it was killed, or choose another",
    )


def _leases(mirror: Mirror) -> dict[str, Lease]:
    """Each who said to be, or asked to be, the driver there, and when; what is torn counts from its writing."""

    def listed(fs: Any, root: str) -> dict[str, Lease]:
        fs.invalidate_cache()
        found: dict[str, Lease] = {}
        for path in unless_absent(partial(fs.ls, f"{root}/{LEASES}", detail=False)) or []:
            name = path.rstrip("/").rpartition("/")[2]
            said = None if name.startswith(".") else unless_absent(partial(fs.cat_file, path))
            if said is not None:
                try:
                    lease = json.loads(said)
                    found[name] = {key: lease[key] for key in ("host", "process", "space")} | {
                        "time": float(lease["time"])
                    }
                except (ValueError, TypeError, KeyError):
                    at = fs.modified(path).timestamp()
                    found[name] = {"host": "another machine", "process": name, "space": "", "time": at}
        return found

    return mirror.ask(listed)


def _is_dead(lease: Lease) -> bool:
    if lease["space"] and lease["space"] == _me()["space"]:
        try:
            os.kill(lease["process"], 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # another user's
    return time.time() - lease["time"] > LEASE_S

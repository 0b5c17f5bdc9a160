"""What of this machine's cache may go: what is fetched, unpacked or measured again when somebody asks for it.

Nothing that a process holds, has mapped or used within the hour; no weights that users brought; and the copy of a RUN
at an address only if the address has all of it and nobody works there.
"""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from fm.data.staging import HOLDERS, TURNS, WHOLE, staged, unused
from fm.errors import UserError, several
from fm.files import alone, mapped
from fm.housekeeping.plan import (
    DAY_S,
    FRESH_S,
    PART,
    Guard,
    Judged,
    Kept,
    Removal,
    entries,
    files_in,
    kept,
    leftover,
    size_of,
    touched,
    unguarded,
    unknown,
)
from fm.leases import LEASES, is_taken
from fm.mirror import ADDRESS, Mirror

LOCK = ".lock"
DIGEST = re.compile(r"[0-9a-f]{16}")
OF_USER = re.compile(r"(reference|features)-(\d+)")
PASSING = (LEASES, ".ray")  # of a copy: what counts only while somebody is at work
OF_SHARDS = {"shards": ".tar", "index": ".npy", "pixels": ".raw"}


def cache_judged(cache: Path, idle_s: float, now: float) -> list[Judged]:
    """A verdict on everything in the cache; what was used within `idle_s` stays."""
    found, rule = list[Judged](), Rule(idle_s, now)
    for path in entries(cache):
        of_user = OF_USER.fullmatch(path.name)
        if path.name == LOCK:
            found.append(kept(path, "a lock"))
        elif path.is_symlink() or not path.is_dir():
            found.append(unknown(path))
        elif DIGEST.fullmatch(path.name):
            found += _data_set(path, rule)
        elif path.name == "runs":
            found += [one for place in entries(path) for one in _copies(place, rule)]
        elif path.name == "unpacked":
            found += _files(path, DIGEST, "unpacked again when its archive is read", rule, partial(_turn, path))
        elif of_user and int(of_user[2]) != os.getuid():
            found.append(kept(path, "another user's"))
        elif of_user and of_user[1] == "reference":
            name = re.compile(r"(train|test)-[0-9a-f]{16}\.safetensors")
            found += _files(path, name, "features of real pictures, measured again when asked for", rule)
        elif of_user:
            name = re.compile(r"[^.].*")
            found += _files(path, name, "", rule)
        else:
            found.append(unknown(path))
    return found


class Rule:
    """What is in use, or was lately; looked up once for a listing."""

    def __init__(self, idle_s: float, now: float) -> None:
        self.idle_s, self.now, self.mapped = idle_s, now, mapped()

    def in_use(self, files: list[Path]) -> str:
        """Why none of these files may go; empty if all may."""
        idle_s = self.now - max(map(touched, files), default=0.0)
        if self.mapped & {*files}:
            return "a process of this machine reads it"
        if idle_s < FRESH_S:
            return "used within the last hour"
        return f"used {idle_s / DAY_S:.1f} days ago" if idle_s < self.idle_s else ""


def _files(folder: Path, name: re.Pattern[str], why: str, rule: Rule, guard: Guard = unguarded) -> list[Judged]:
    """Verdicts on the files of a folder that have such names; without a `why` they stay: users brought them."""
    found = list[Judged]()
    for path in entries(folder):
        if path.is_symlink() or not path.is_file():
            found.append(unknown(path))
        elif path.name == LOCK:
            found.append(kept(path, "a lock"))
        elif PART.fullmatch(path.name):
            found.append(leftover(path, rule.now))
        elif not name.fullmatch(path.name):
            found.append(unknown(path))
        elif not why:
            found.append(kept(path, "weights that were brought: nobody can fetch them again"))
        else:
            used = rule.in_use([path])
            found.append(kept(path, used) if used else Removal(path, size_of(path), why, guard=guard))
    return found


def _data_set(folder: Path, rule: Rule) -> list[Judged]:
    """Verdicts on the shards of a data set, each with all its files."""
    found, names = list[Judged](), set[str]()
    for path in entries(folder):
        if path.is_symlink() or path.name not in (*OF_SHARDS, HOLDERS, TURNS, WHOLE):
            found.append(unknown(path))
        elif path.name in OF_SHARDS:
            for file in entries(path):
                if PART.fullmatch(file.name) and not file.is_symlink():
                    found.append(leftover(file, rule.now))
                elif file.suffix != OF_SHARDS[path.name] or file.is_symlink() or not file.is_file():
                    found.append(unknown(file))
                else:
                    names.add(file.stem)
    found += [_shard(folder, name, rule) for name in sorted(names)]
    return found + [kept(folder / name, "locks of staging") for name in (HOLDERS, TURNS) if entries(folder / name)]


def _shard(folder: Path, name: str, rule: Rule) -> Judged:
    files = [file for file in staged(folder, name) if file.is_file() and not file.is_symlink()]
    payload = sorted((file for file in files if file.parent.name != WHOLE), key=size_of, reverse=True)
    size = sum(map(size_of, files))
    guard = partial(_shard_free, folder, name)
    with guard() as held:
        used = held or rule.in_use(payload)
    if used:
        return Kept(payload[0], size, used)
    why = "staged again when its data set is read"
    return Removal(payload[0], size, why, tuple(file for file in files if file != payload[0]), guard)


@contextmanager
def _turn(folder: Path) -> Iterator[str]:
    with ExitStack() as stack:
        try:
            stack.enter_context(alone(folder))
        except UserError:
            why = "somebody unpacks another just now"
        else:
            why = ""
        yield why


@contextmanager
def _shard_free(folder: Path, name: str) -> Iterator[str]:
    with unused(folder, name) as free:
        yield "" if free else "a process of this machine holds it"


def _copies(place: Path, rule: Rule) -> list[Judged]:
    """Verdicts on what each side of this machine keeps of the RUN at one address."""
    found = list[Judged]()
    if place.is_symlink() or not (place.is_dir() and DIGEST.fullmatch(place.name)):
        return [unknown(place)]
    for side in entries(place):
        if side.is_symlink() or not side.is_dir():
            found.append(unknown(side))
        for path in entries(side):
            if path.name in (LOCK, ADDRESS) and path.is_file():
                found.append(kept(path, "says what is or was a copy of what"))
            elif PART.fullmatch(path.name) and not path.is_symlink():
                found.append(leftover(path, rule.now))
            elif path.is_symlink() or not path.is_dir():
                found.append(unknown(path))
            else:
                found.append(_copy(path, rule))
    return found


def _copy(folder: Path, rule: Rule) -> Judged:
    files = files_in(folder)
    if any(file.is_symlink() for file in files):
        return kept(folder, "holds a link, not followed")
    used = rule.in_use([file for file in files if not file.name.startswith(".")])
    if used:
        return kept(folder, used)
    guard = partial(_copy_free, folder)
    with guard() as why:
        if why:
            return kept(folder, why)
    return Removal(folder, size_of(folder), f"a copy of {_address(folder)}, which has all of it", guard=guard)


@contextmanager
def _copy_free(folder: Path) -> Iterator[str]:
    """Says why a copy of a RUN at an address stays: who works there, or what the address has not."""
    address = _address(folder)
    if not address:
        yield "what it is a copy of is not noted; whoever uses it next notes it"
        return
    mirror = Mirror(address, folder.parent.name)
    if mirror.folder.resolve() != folder.resolve():
        yield f"not where a copy of {address} lies"
        return
    with ExitStack() as stack:
        try:
            for locked in (mirror.place, folder):
                stack.enter_context(alone(locked))
            why = _lacking(mirror)
        except UserError:
            why = f"a process of this machine works with it ({address})"
        yield why


def _address(folder: Path) -> str:
    """Which RUN this is a copy of, as its mirror noted."""
    note = folder.parent / ADDRESS
    return note.read_text().strip() if note.is_file() and not note.is_symlink() else ""


def _lacking(mirror: Mirror) -> str:
    """Why the address is no substitute for this copy; empty if it is."""
    try:
        if is_taken(mirror):
            return f"somebody is at work at {mirror.address}, or was a minute ago"
        unsent = [name for name in mirror.unsent() if name.split("/")[0] not in PASSING and not _is_part(name)]
    except UserError as error:
        return f"its address cannot be looked at ({error})"
    there = f"{mirror.address} has not, or not so: {', '.join(unsent[:3])}{', ...' * (len(unsent) > 3)}"
    return f"holds {several(len(unsent), 'file')} that {there}" if unsent else ""


def _is_part(name: str) -> bool:
    return bool(PART.fullmatch(name.rpartition("/")[2]))

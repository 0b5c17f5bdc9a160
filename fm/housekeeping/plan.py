"""A listing of what would be deleted and what is kept, with sizes and reasons; and its deletion.

What is not known is kept, links are never followed, and a folder takes another name before its content goes: what a
kill leaves half deleted is never taken for whole, and the next listing has it.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from fm.errors import Unfinished, several
from fm.files import sync_folder

FRESH_S = 3600.0  # what was used so lately may be in use, and what was written so lately may still be
DAY_S = 86_400.0
GONE = ".gone.part"  # the end of a name: deletion has begun
PART = re.compile(r"\..+\.part")  # what a writer that was killed left, if none is at work

Guard = Callable[[], AbstractContextManager[str]]  # says why something cannot go now; nobody begins to use it meanwhile


@contextmanager
def unguarded() -> Iterator[str]:
    """For what is locked as a whole, or is made again when somebody misses it."""
    yield ""


@dataclass(frozen=True)
class Removal:
    """A file or folder that would be deleted, with the files beside it that go too, if its guard lets it go."""

    path: Path
    bytes: int
    why: str
    beside: tuple[Path, ...] = ()
    guard: Guard = field(default=unguarded, compare=False, repr=False)


@dataclass(frozen=True)
class Kept:
    """A file or folder that stays."""

    path: Path
    bytes: int
    why: str


Judged = Removal | Kept


@dataclass(frozen=True)
class Plan:
    """A listing of a folder; `failed` is what should have been deleted and could not."""

    root: Path
    removals: tuple[Removal, ...]
    kept: tuple[Kept, ...]
    failed: tuple[Kept, ...] = ()

    @property
    def bytes(self) -> int:
        return sum(removal.bytes for removal in self.removals)


def plan_of(root: Path, judged: list[Judged]) -> Plan:
    """The listing of these verdicts, in the order of their paths."""
    ordered = sorted(judged, key=lambda one: one.path)
    removals = tuple(one for one in ordered if isinstance(one, Removal))
    return Plan(root, removals, tuple(one for one in ordered if isinstance(one, Kept)))


def kept(path: Path, why: str) -> Kept:
    return Kept(path, size_of(path), why)


def unknown(path: Path) -> Kept:
    """What no writer of ours is known to leave there."""
    return kept(path, "a link, not followed" if path.is_symlink() else "unknown, kept")


def leftover(path: Path, now: float) -> Judged:
    """A file or folder under a writer's temporary name."""
    if path.name.endswith(GONE):
        return Removal(path, size_of(path), "left by a deletion that was interrupted")
    if now - touched(path, read=False) < FRESH_S:
        return kept(path, "written within the last hour: somebody may be at it")
    return Removal(path, size_of(path), "left by a writer that was killed")


def entries(folder: Path) -> list[Path]:
    """What lies in a folder; nothing if it is not there, or a link."""
    return sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def files_in(path: Path) -> list[Path]:
    """The files and links of a folder and all below it, none of a link's; a file is its own."""
    if path.is_symlink() or not path.is_dir():
        return [path]
    return [Path(where, name) for where, folders, names in os.walk(path) for name in [*names, *_links(where, folders)]]


def _links(where: str, folders: list[str]) -> list[str]:
    return [name for name in folders if os.path.islink(os.path.join(where, name))]


def size_of(path: Path) -> int:
    return sum(file.lstat().st_size for file in files_in(path))


def touched(path: Path, read: bool = True) -> float:
    """When any file of it was last written, or, with `read`, read as well, as far as the file system notes that."""
    stats = [file.lstat() for file in files_in(path)]  # that a folder was listed is no use of it
    times = [stat.st_atime for stat in stats if read] + [stat.st_mtime for stat in stats]
    return max(times, default=path.lstat().st_mtime)


def carried_out(plan: Plan) -> Plan:
    """Deletes what the plan removes, in its order -> what was removed, what was in use meanwhile, and what failed."""
    removed: list[Removal] = []
    used: list[Kept] = []
    failed: list[Kept] = []
    for one in plan.removals:
        with one.guard() as why:
            if why:
                used.append(Kept(one.path, one.bytes, why))
                continue
            try:
                for path in (one.path, *one.beside):
                    _delete(plan.root, path)
                removed.append(one)
            except OSError as error:
                failed.append(Kept(one.path, one.bytes, f"cannot be deleted ({error.strerror or error})"))
    return replace(plan, removals=tuple(removed), kept=(*plan.kept, *used), failed=tuple(failed))


def check(plan: Plan) -> None:
    """Raises: Unfinished if something could not be deleted."""
    if plan.failed:
        first = plan.failed[0]
        what = f"{first.why}, as {several(len(plan.failed), 'thing')} in all" if len(plan.failed) > 1 else first.why
        raise Unfinished(what, str(first.path), "give yourself the right to delete there, and start again")


def _delete(root: Path, path: Path) -> None:
    """A file; or a folder, under another name first. What is not there any more is gone.

    Raises: OSError if it cannot be deleted, or a link leads there.
    """
    for parent in [*path.relative_to(root).parents][:-1]:
        if (root / parent).is_symlink():
            raise OSError(f"{parent} has become a link")
    if path.is_symlink() or not path.is_dir():
        return path.unlink(missing_ok=True)
    aside = path if path.name.endswith(GONE) else path.with_name(f".{path.name.lstrip('.')}{GONE}")
    if aside != path:
        if aside.exists():
            shutil.rmtree(aside)
        os.rename(path, aside)
        sync_folder(path.parent)
    shutil.rmtree(aside)

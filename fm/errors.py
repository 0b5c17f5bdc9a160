"""What a user can cause, in one sentence: what, where, how to mend. All else is our bug and keeps its traceback."""

import re
from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """One sentence, `where: what; mend`. All fields travel in `args`, so it survives pickling between processes."""

    def __init__(self, what: str, where: str = "", mend: str = "") -> None:
        super().__init__(what, where, mend)
        self.what, self.where, self.mend = what, where, mend

    def __str__(self) -> str:
        return (f"{self.where}: " if self.where else "") + self.what + (f"; {self.mend}" if self.mend else "")


class ValueUserError(UserError, ValueError):
    """A value that is out of its range or of the wrong kind: also a ValueError, for callers of the library."""


class SettingsError(ValueUserError):
    """A recipe, preset or option that cannot be used; `where` is the key's path."""


class DataError(UserError):
    """A source, shard or image that cannot be read or does not match its manifest."""


class MachineError(DataError):
    """What the machine at hand failed in (disk, memory, network): the same work may succeed elsewhere, or later."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, or belongs to another recipe or data set."""


class NumericalError(ValueUserError):
    """NaN, infinity, a time outside the path's range, or a step size that vanished; `where` names the sample and t."""


class Diverged(NumericalError):
    """Training met a loss or gradient past all bounds; raised before the weights are touched.

    `indices` are the data set's images in the global batch of the step after `images_seen`.
    """

    images_seen: int
    indices: list[int]


class Unfinished(UserError):
    """Some of what was asked for failed; the rest is done and stands. A command ends with 1, not 2."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'demo'? known: a, b, c`: the tail of every message about an unknown name."""
    known = sorted(known)
    plain = {_plain(one): one for one in reversed(known)}
    close = get_close_matches(_plain(name), plain, n=1, cutoff=0.65)
    return (f"did you mean {plain[close[0]]!r}? " if close else "") + f"known: {', '.join(known)}"


def _plain(name: str) -> str:
    """A name as titles and keys share it: `CIFAR-10` is near `cifar10`, `FM w/ OT` near `fm-ot`."""
    return re.sub(r"[\W_]+", "", name.lower().replace("w/", ""))


def several(count: int, noun: str) -> str:
    """`1 worker`, `1,024 images`."""
    return f"{count:,} {noun}" + "s" * (count != 1)


def member(name: str, family: dict, what: str, where: str = ""):
    """The family's member of that name.

    Raises: SettingsError that names the nearest member.
    """
    if name not in family:
        raise SettingsError(f"unknown {what} {name!r}", where=where, mend=nearest(name, family))
    return family[name]

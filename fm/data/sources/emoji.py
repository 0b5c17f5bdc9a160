"""`emoji:PATH`: pictures of emoji, a folder or tar whose files are named by code points (`1f44b-1f3fb.png`), split so
that nothing held out has a copy among the training pictures.

An emoji in its skin tones, genders and presentations is one drawing several times, and many are drawn alike under two
names: pictures of one base name, or that look alike, fall into one group, and a hash of the group decides.
`emoji:PATH?holdout=0.1` sets the share.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fm.data.decode import Rejected, decode
from fm.data.order import words
from fm.data.sources import Item, Source, open_source, options
from fm.errors import SettingsError
from fm.lineage import digest

SCHEME = "emoji"
TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}  # Unicode TS 51
SIGNS = {"fe0e", "fe0f", "200d", "2640", "2642"}  # presentation, joiner, gender
SIDE, ALIKE = 16, 0.98  # pictures look alike whose grey values at SIDE x SIDE correlate by more
AT_ONCE = 512


@dataclass(frozen=True)
class Emoji(Source):
    """The pictures of another source, with splits by group; where it tells no labels, the folders' names are."""

    uri: str
    pictures: Source
    holdout: float

    def found(self) -> Iterable[Item]:
        items = list(self.pictures.items())
        for item, group in zip(items, groups(items, [self._look(item) for item in items]), strict=True):
            share = (words(1, SCHEME, group)[0] >> 11) / 2**53
            label = item.label or PurePosixPath(item.key).parent.name or None
            yield replace(item, label=label, split="test" if share < self.holdout else "train")

    def _look(self, item: Item) -> NDArray[np.float32]:
        """Its grey values (SIDE^2,), centred and of length 1; zeros for what shows nothing or cannot be read, which is
        refused when it is due."""
        try:
            picture = decode(self.read(item), alpha="white").convert("L")
        except Rejected:
            return np.zeros(SIDE * SIDE, np.float32)
        grey = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX))
        centred = grey.astype(np.float32).ravel() - grey.mean(dtype=np.float32)
        return centred / max(1.0, float(np.linalg.norm(centred)))

    def read(self, item: Item) -> bytes:
        return self.pictures.read(item)

    def digest(self) -> str:
        return digest(SCHEME, self.pictures.digest(), self.holdout, SIDE, ALIKE)


def groups(items: list[Item], looks: list[NDArray[np.float32]]) -> list[str]:
    """The group of each picture, named by the least key in it."""
    above = list(range(len(items)))  # of each picture another of its group, in the end the first

    def first(i: int) -> int:
        while above[i] != i:
            above[i] = above[above[i]]
            i = above[i]
        return i

    for a, b in (*_of_one_base(items), *_alike(np.array(looks))):
        low, high = sorted((first(a), first(b)))
        above[high] = low
    return [items[first(i)].key for i in range(len(items))]


def _of_one_base(items: list[Item]) -> Iterator[tuple[int, int]]:
    known: dict[str, int] = {}
    for i, item in enumerate(items):
        yield known.setdefault(base(item.key), i), i


def _alike(looks: NDArray[np.float32]) -> Iterator[tuple[int, int]]:
    for start in range(0, len(looks), AT_ONCE):
        for a, b in np.argwhere(looks[start : start + AT_ONCE] @ looks.T > ALIKE):
            yield start + int(a), int(b)


def base(key: str) -> str:
    """What a picture shows, whatever its skin tone and gender: its file's code points without those of the two."""
    parts = [part for part in PurePosixPath(key).stem.lower().split("-") if part not in TONES]
    return "-".join(part for part in parts if part not in SIGNS) or "-".join(parts)


def fits(path: str) -> bool:
    return False  # a folder of pictures is a folder: that they are emoji has to be said


def open_uri(rest: str) -> Source:
    """Raises: SettingsError for a share that leaves nothing to train or to judge by; as `open_source`."""
    path, given = options(rest, SCHEME, ("holdout",))
    try:
        share = float(given.get("holdout", 0.1))
    except ValueError:
        share = 0.0
    if not 0 < share <= 0.5:
        raise SettingsError("is no share from 0 to 0.5", f"{SCHEME}: holdout={given['holdout']}", "for example 0.1")
    return Emoji(f"{SCHEME}:{rest}", open_source(path), share)

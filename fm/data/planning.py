"""Which picture goes into which shard: decided before the first is read, from the source's listing alone.

Items sorted by key, split, shuffled within the split, cut into shards. So the shards depend neither on who writes them
nor on what can be read; and a listing of a hundred million pictures is planned in the memory of its columns.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm.data.order import words
from fm.data.preparation import Preparation
from fm.data.sources import Listing, Source
from fm.errors import DataError
from fm.lineage import digest


def inputs_digest(source: Source, settings: Preparation) -> str:
    """Identifies source and settings without reading the pictures; compare with `Manifest.inputs`."""
    return digest(source.digest(), settings.identity())


@dataclass(frozen=True)
class Part:
    """The work of one shard: picklable, and complete in itself.

    labels: the numbers of its items' class names; first: the number of its first sample in the split.
    """

    source: Source
    root: Path
    settings: Preparation
    labels: dict[str, int]
    inputs: str
    split: str
    name: str
    first: int
    items: Listing

    def identity(self) -> str:
        """What decides the shard's bytes: where the source can tell them apart, its own items alone."""
        own = self.source.digest_of(self.items)
        if own is None:
            return self.inputs
        return digest(own, self.settings.identity(), self.labels, self.first, list(self.items))


class Plan(Sequence[Part]):
    """The parts of a preparation, each made when it is asked for: the plan is the listing and arrays of places in it.

    Raises: DataError for a source without a picture.
    """

    def __init__(self, source: Source, root: Path, settings: Preparation, inputs: str) -> None:
        self._make = partial(Part, source, root, settings)
        self.items, self.inputs = source.items(), inputs
        if not self.items:
            raise DataError("no images in it", where=source.uri, mend="give a source with at least one image")
        self.own_splits = len(self.items.by_split()) > 1
        self.classes = tuple(self.items.labels())
        self._labels = {name: number for number, name in enumerate(self.classes)}
        self._orders = {
            split: group[np.argsort(words(len(group), settings.seed, split, "shards"), kind="stable")]
            for split, group in sorted(split_items(self.items, settings.holdout).items())
        }
        self._each = settings.shard_images
        self._shards = [
            (split, number) for split, order in self._orders.items() for number in range(-(-len(order) // self._each))
        ]

    def counts(self) -> Counter[str]:
        """The pictures of each split, readable or not."""
        return Counter({split: len(order) for split, order in self._orders.items()})

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, index: Any) -> Any:
        split, number = self._shards[index]
        first = number * self._each
        items = self.items.take(self._orders[split][first : first + self._each])
        labels = {name: self._labels[name] for name in items.labels()}
        return self._make(labels, self.inputs, split, f"{split}-{number:06d}", first, items)


def split_items(items: Listing, holdout: float) -> dict[str, NDArray[np.int64]]:
    """Where the items of each split stand: the source's own splits, or train and test by a hash of each key.

    One name for all is no split. Both get at least one, as far as two items go: those of the lowest and highest hash.
    """
    named = items.by_split()
    if len(named) > 1:
        own: dict[str, list[NDArray[np.int64]]] = {}
        for split, group in named.items():
            own.setdefault(split or "train", []).append(group)
        return {split: np.sort(np.concatenate(several)) for split, several in own.items()}
    places = np.fromiter((_place(items.key_at(i)) for i in range(len(items))), np.float64, len(items))
    bound = min(max(holdout, places.min() + 2.0**-33), places.max())
    groups = {"train": np.flatnonzero(places >= bound), "test": np.flatnonzero(places < bound)}
    return {split: group for split, group in groups.items() if len(group)}


def _place(key: bytes) -> float:
    """Where in [0, 1) a key falls: the same for ever, whatever else the source holds."""
    hashed = hashlib.blake2b(key, digest_size=4).digest()
    return int.from_bytes(hashed, "little") / 2**32

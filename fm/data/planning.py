"""Which picture goes into which shard: decided before the first is read, from the source's listing alone.

Items sorted by key, split, shuffled within the split (those of a numbered source are not), cut into shards. So the
shards depend neither on who writes them nor on what can be read; and a listing of a hundred million pictures is planned
in the memory of its columns.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fm.data.manifest import Origin
from fm.data.order import words
from fm.data.preparation import Preparation
from fm.data.sources import Listing, Source
from fm.errors import DataError
from fm.lineage import digest


def inputs_digest(source: Source, settings: Preparation) -> str:
    """Identifies source and settings without reading the pictures; compare with `Manifest.inputs`."""
    return inputs_of(source.digest(), settings)


def inputs_of(source_digest: str, settings: Preparation) -> str:
    """As `inputs_digest`, of a source whose digest is known."""
    return digest(source_digest, settings.identity())


@dataclass(frozen=True)
class Part:
    """The work of one shard: picklable, and complete in itself.

    labels: the numbers of its items' class names; first: the number of its first sample in the split.
    """

    source: Source
    root: Path
    settings: Preparation
    source_digest: str
    labels: dict[str, int]
    split: str
    name: str
    first: int
    items: Listing

    def identity(self) -> str:
        """What decides the shard's bytes: where the source can tell them apart, its own items alone."""
        own = self.source.digest_of(self.items) or self.source_digest
        return digest(own, self.settings.identity(), self.labels, self.first, self.items.digest())


class Place(NamedTuple):
    """Of a shard: its split and name, the number of its first sample in that split, and that sample's place among those
    of its own source."""

    split: str
    name: str
    first: int
    start: int


def places(planned: Sequence[Mapping[str, int]], shard_images: int) -> list[list[Place]]:
    """The shards of each of several sources, which follow each other in every split, by how many pictures they list."""
    shards: Counter[str] = Counter()
    samples: Counter[str] = Counter()
    found = []
    for counts in planned:
        found.append(
            [
                Place(split, f"{split}-{shards[split] + number:06d}", samples[split] + start, start)
                for split, count in sorted(counts.items())
                for number, start in enumerate(range(0, count, shard_images))
            ]
        )
        shards.update({split: -(-count // shard_images) for split, count in counts.items()})
        samples.update(counts)
    return found


class Plan(Sequence[Part]):
    """The parts of a preparation, each made when it is asked for: the plan is the listing and arrays of places in it.

    source_digest: the source's, asked for once; after: what the data set holds already, whose numbers come first;
    classes: its class names, whose numbers stay.

    Raises: DataError for a source without a picture, or with class names that would change those numbers.
    """

    def __init__(
        self,
        source: Source,
        source_digest: str,
        root: Path,
        settings: Preparation,
        after: Sequence[Origin] = (),
        classes: Sequence[str] = (),
    ) -> None:
        self.source, self.root, self.settings, self.after = source, root, settings, after
        self._digest, self.items = source_digest, source.items()
        if not self.items:
            raise DataError("no images in it", where=source.uri, mend="give a source with at least one image")
        self.classes = _merged(classes, self.items.labels(), source.uri)
        self._labels = {name: number for number, name in enumerate(self.classes)}
        self._orders = {
            split: group
            if source.numbered
            else group[np.argsort(words(len(group), settings.seed, split, "shards"), kind="stable")]
            for split, group in split_items(self.items, settings.holdout).items()
        }
        self.counts = {split: len(order) for split, order in self._orders.items()}
        self._places = places([*(origin.planned for origin in after), self.counts], settings.shard_images)[-1]
        self.names = {place.name for place in self._places}

    def origin(self, missing: dict[str, int]) -> Origin:
        """What the manifest says of the source."""
        return Origin(
            source=self.source.uri,
            digest=self._digest,
            inputs=inputs_of(self._digest, self.settings),
            planned=self.counts,
            missing=missing,
        )

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        split, name, first, start = self._places[index]
        items = self.items.take(self._orders[split][start : start + self.settings.shard_images])
        labels = {label: self._labels[label] for label in items.labels()}
        return Part(self.source, self.root, self.settings, self._digest, labels, split, name, first, items)


def _merged(classes: Sequence[str], found: Sequence[str], source: str) -> tuple[str, ...]:
    """The class names of both, sorted: labels are places in this order.

    Raises: DataError if a name that is found would move one of `classes`.
    """
    merged = tuple(sorted({*classes, *found}))
    moved = [one for one, other in zip(classes, merged, strict=False) if one != other]
    if moved:
        new = next(name for name in merged if name not in classes)
        raise DataError(
            f"its class {new!r} would come before {moved[0]!r} of the data set, whose labels it would renumber",
            where=source,
            mend="name its classes so that new ones sort last, or prepare both sources together anew",
        )
    return merged


def split_items(items: Listing, holdout: float) -> dict[str, NDArray[np.int64]]:
    """Where the items of each split stand: the source's own splits, or train and test by a hash of each key.

    Own splits are kept, be there only one (more may be added); what names none among them is train. By hash both get at
    least one, as far as two items go: those of the lowest and highest.
    """
    named = items.by_split()
    if named.keys() != {None}:
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

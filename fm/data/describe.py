"""What a source holds, without preparing it: counts, classes, splits, the sizes and traits of some of its pictures, and
the size that suits them."""

from collections import Counter

import numpy as np

from fm.data.decode import TRAITS, Header, Rejected, header_of
from fm.data.preparation import Preparation, sample_bytes
from fm.data.sources import Item, Source
from fm.settings import Settings

LOOKED_AT = 1000
SIZES = (16, 28, 32, 64, 128)
LARGEST = ((1_000, 32), (100_000, 64))  # side for fewer pictures than that: larger images want more of them
NEEDED = 80  # four times what a network is judged by: the least that `tasks/standing.py` takes
ADVICE = {
    "exif-rotated": "`--exif apply` turns them upright; without it they stay as stored, as in the official sets",
    "alpha": "`--alpha white` lays them over white; without it transparency is dropped, as in the official sets",
}


class Summary(Settings):
    """Counts by split (`none` where the source has none) and class, and of the files passed over by ending; of the
    `looked_at` pictures widths, heights and how many have each trait; the size proposed, and what shards of that size
    take; and what is worth a word."""

    source: str
    images: int
    splits: dict[str, int]
    classes: dict[str, int]
    passed_over: dict[str, int]
    looked_at: int
    unreadable: int
    smallest: tuple[int, int] | None
    median: tuple[int, int] | None
    largest: tuple[int, int] | None
    traits: dict[str, int]
    proposed_size: int | None
    needed_bytes: int | None
    notes: tuple[str, ...]


def describe(source: Source, at_most: int | None = None) -> Summary:
    """The source's summary; up to 1,000 pictures, evenly spread over the keys, are opened for their headers. The size
    proposed is `at_most` that side, if it is given."""
    items = source.items()
    splits = Counter(item.split or "none" for item in items)
    classes = Counter(item.label for item in items if item.label is not None)
    places = np.unique(np.linspace(0, len(items) - 1, LOOKED_AT).astype(int)).tolist() if items else []
    headers = [header for place in places if (header := _header(source, items[place]))]
    sizes = sorted((header.size for header in headers), key=lambda size: size[0] * size[1])
    found = Counter(trait for header in headers for trait in header.traits)
    proposed = _proposed([min(size) for size in sizes], len(items), at_most or SIZES[-1])
    traits = {trait: found[trait] for trait in TRAITS if found[trait]}
    return Summary(
        source=source.uri,
        images=len(items),
        splits=dict(sorted(splits.items())),
        classes=dict(sorted(classes.items())),
        passed_over={ending or "none": count for ending, count in sorted(source.passed_over().items())},
        looked_at=len(places),
        unreadable=len(places) - len(headers),
        smallest=sizes[0] if sizes else None,
        median=sizes[len(sizes) // 2] if sizes else None,
        largest=sizes[-1] if sizes else None,
        traits=traits,
        proposed_size=proposed,
        needed_bytes=len(items) * sample_bytes(Preparation(size=max(proposed, 4))) if proposed else None,
        notes=(*(_missing(source.expected(), splits) or _too_few(len(items))), *_advice(traits, len(headers))),
    )


def _proposed(sides: list[int], count: int, at_most: int) -> int | None:
    """The largest usual size that no more than half of the pictures fall short of, and for which there are enough; of
    smaller ones their own."""
    if not sides:
        return None
    side = min([sorted(sides)[len(sides) // 2], at_most, *(most for fewer, most in LARGEST if count < fewer)])
    return max((size for size in SIZES if size <= side), default=side)


def _too_few(count: int) -> list[str]:
    return [f"{count} pictures are too few to train a network and to judge it: {NEEDED} are due"] * (count < NEEDED)


def _missing(expected: dict[str, int], splits: Counter[str]) -> list[str]:
    return [
        f"{splits[split]:,} pictures in {split}, where {count:,} are due"
        for split, count in expected.items()
        if splits[split] != count
    ]


def _advice(traits: dict[str, int], looked_at: int) -> list[str]:
    return [f"{traits[t]} of {looked_at}: {TRAITS[t]}; {ADVICE[t]}" for t in ADVICE if t in traits]


def _header(source: Source, item: Item) -> Header | None:
    """None if the picture cannot be read."""
    try:
        return None if item.fault else header_of(source.read(item))
    except Rejected:
        return None

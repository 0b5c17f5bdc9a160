"""What a source holds, without preparing it: counts, classes, splits, and the sizes of some of its pictures."""

from collections import Counter

import numpy as np

from fm.data.decode import Rejected, size_of
from fm.data.sources import Item, Source
from fm.settings import Settings

LOOKED_AT = 200


class Summary(Settings):
    """Counts by split (`none` where the source has none) and class; widths and heights of the `looked_at` pictures."""

    source: str
    images: int
    splits: dict[str, int]
    classes: dict[str, int]
    looked_at: int
    unreadable: int
    smallest: tuple[int, int] | None
    median: tuple[int, int] | None
    largest: tuple[int, int] | None


def describe(source: Source) -> Summary:
    """The source's summary; up to 200 pictures, evenly spread over the sorted keys, are opened for their sizes."""
    items = sorted(source.items(), key=lambda item: item.key)
    looked_at = [items[i] for i in np.unique(np.linspace(0, len(items) - 1, LOOKED_AT).astype(int))] if items else []
    sizes = sorted((size for item in looked_at if (size := _size(source, item))), key=lambda size: size[0] * size[1])
    return Summary(
        source=source.uri,
        images=len(items),
        splits=dict(sorted(Counter(item.split or "none" for item in items).items())),
        classes=dict(sorted(Counter(item.label for item in items if item.label is not None).items())),
        looked_at=len(looked_at),
        unreadable=len(looked_at) - len(sizes),
        smallest=sizes[0] if sizes else None,
        median=sizes[len(sizes) // 2] if sizes else None,
        largest=sizes[-1] if sizes else None,
    )


def _size(source: Source, item: Item) -> tuple[int, int] | None:
    """(width, height) from the file's header alone, None if it cannot be read."""
    try:
        return None if item.fault else size_of(source.read(item))
    except Rejected:
        return None

"""What samples add up to, in whole numbers, so that shards can be summed in any order: counts by class and by trait,
and the sums behind mean and standard deviation."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass
class Tally:
    """Of some samples: how many of each label (-1: none) and trait, and of each channel the sums of values and squares.

    pixels: how many there are of each channel.
    """

    labels: dict[int, int] = field(default_factory=dict)
    traits: dict[str, int] = field(default_factory=dict)
    pixels: int = 0
    sums: list[int] = field(default_factory=lambda: [0, 0, 0])
    squares: list[int] = field(default_factory=lambda: [0, 0, 0])

    def mean(self) -> tuple[float, ...]:
        """Of each channel, in grey levels, 0 to 255."""
        return tuple(total / self.pixels for total in self.sums)

    def std(self) -> tuple[float, ...]:
        """Of each channel, in grey levels."""
        both = zip(self.sums, self.squares, strict=True)
        return tuple(math.sqrt(self.pixels * square - total**2) / self.pixels for total, square in both)


def added(tallies: Iterable[Tally]) -> Tally:
    """All samples of these together."""
    labels: Counter[int] = Counter()
    traits: Counter[str] = Counter()
    whole = Tally()
    for one in tallies:
        labels.update(one.labels)
        traits.update(one.traits)
        whole.pixels += one.pixels
        whole.sums = [a + b for a, b in zip(whole.sums, one.sums, strict=True)]
        whole.squares = [a + b for a, b in zip(whole.squares, one.squares, strict=True)]
    whole.labels, whole.traits = dict(sorted(labels.items())), dict(sorted(traits.items()))
    return whole


class Counting:
    """A tally under way; pictures are uint8 (height, width, 3), all of one size, up to 66,000 rows."""

    def __init__(self) -> None:
        self._labels: Counter[int] = Counter()
        self._traits: Counter[str] = Counter()
        self._pixels, self._sums, self._squares = 0, np.zeros(3, np.int64), np.zeros(3, np.int64)

    def add(self, pixels: NDArray[np.uint8], label: int, traits: Iterable[str]) -> None:
        """Counts one sample in."""
        if not self._pixels:
            self._sums, self._squares = (np.zeros(pixels[0].size, np.int64) for _ in range(2))
        self._labels[label] += 1
        for trait in traits:  # mostly none, where Counter.update takes its time
            self._traits[trait] += 1
        height, width, channels = pixels.shape
        values = pixels.reshape(height, width * channels).astype(np.uint32)  # 255 ** 2 fits 66,051 times
        self._sums += np.add.reduce(values, 0, np.uint32)
        values *= values
        self._squares += np.add.reduce(values, 0, np.uint32)
        self._pixels += height * width

    def tally(self) -> Tally:
        """Of all that were added."""
        sums, squares = (columns.reshape(-1, 3).sum(axis=0).tolist() for columns in (self._sums, self._squares))
        labels, traits = dict(sorted(self._labels.items())), dict(sorted(self._traits.items()))
        return Tally(labels, traits, self._pixels, sums, squares)

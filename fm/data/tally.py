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

    def count(self, pixels: NDArray[np.uint8], label: int, traits: Iterable[str]) -> None:
        """Counts one sample in; pixels uint8 (height, width, 3), up to 66,000 rows."""
        self.labels[label] = self.labels.get(label, 0) + 1
        for trait in traits:
            self.traits[trait] = self.traits.get(trait, 0) + 1
        height, width, channels = pixels.shape
        values = pixels.reshape(height, width * channels).astype(np.uint32)
        for totals, of in ((self.sums, values), (self.squares, values * values)):
            columns = of.sum(axis=0, dtype=np.uint32).reshape(width, channels)  # 255 ** 2 fits 66,051 times
            for channel, total in enumerate(columns.sum(axis=0, dtype=np.int64).tolist()):
                totals[channel] += total
        self.pixels += height * width

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

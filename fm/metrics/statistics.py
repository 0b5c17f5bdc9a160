"""Mean and covariance of features in float64, in one pass, whatever the size of the batches they arrive in."""

from dataclasses import dataclass
from functools import reduce
from itertools import chain

import torch
from torch import Tensor

from fm.errors import ValueUserError

BLOCK = 256  # rows folded at once; fixed, because the order of float additions decides the last bits
AT_ONCE = 4096  # rows converted to float64 at once


@dataclass(frozen=True)
class _Moments:
    """Count, mean (d,) and summed outer products of the deviations (d, d) of some rows."""

    count: int
    mean: Tensor
    scatter: Tensor

    @staticmethod
    def of(rows: Tensor) -> "_Moments":
        mean = rows.mean(0)
        centred = rows - mean
        return _Moments(len(rows), mean, centred.T @ centred)

    def plus(self, other: "_Moments") -> "_Moments":
        """Both sets of rows together (Chan, Golub and LeVeque 1983)."""
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        scatter = self.scatter + other.scatter + torch.outer(delta, delta) * (self.count * other.count / count)
        return _Moments(count, mean, scatter)


class FeatureStatistics:
    """Running mean and covariance of rows of features.

    Rows are folded in blocks of 256 in their order, so `update` gives the same bits for any size of batches, and rows
    that several workers measured for any number of them. `merge` is equal up to rounding.
    """

    def __init__(self) -> None:
        self._folded: _Moments | None = None
        self._waiting: list[Tensor] = []

    @classmethod
    def of(cls, features: Tensor) -> "FeatureStatistics":
        """The statistics of a whole (n, d) tensor."""
        return cls().update(features)

    @property
    def count(self) -> int:
        return (self._folded.count if self._folded else 0) + sum(map(len, self._waiting))

    def update(self, features: Tensor) -> "FeatureStatistics":
        """Adds (n, d) rows of any float type.

        Raises: ValueUserError if they are not rows or not of the width seen before.
        """
        rows = torch.as_tensor(features).detach()
        width = self._width()
        if rows.ndim != 2 or (width is not None and rows.shape[1] != width):
            raise ValueUserError(f"features of shape {tuple(rows.shape)} given where (n, {width or 'd'}) is due")
        for some in rows.split(AT_ONCE):
            self._waiting.append(some.to("cpu", torch.float64))
            if sum(map(len, self._waiting)) >= BLOCK:
                *whole, rest = _blocks(torch.cat(self._waiting))
                self._folded, self._waiting = _fold(self._folded, whole), [rest.clone()]
        return self

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Adds the rows that another object has seen."""
        theirs = other._moments()
        if theirs is not None:
            ours = self._moments()
            self._folded, self._waiting = (theirs if ours is None else ours.plus(theirs)), []
        return self

    def mean_cov(self) -> tuple[Tensor, Tensor]:
        """Mean (d,) and unbiased covariance (d, d), float64.

        Raises: ValueUserError below two rows.
        """
        moments = self._moments()
        if moments is None or moments.count < 2:
            raise ValueUserError(f"a covariance of {self.count} samples is not defined", mend="give at least 2")
        return moments.mean, moments.scatter / (moments.count - 1)

    def _moments(self) -> _Moments | None:
        rows = torch.cat(self._waiting) if self._waiting else None
        return self._folded if rows is None or not len(rows) else _fold(self._folded, [rows])

    def _width(self) -> int | None:
        if self._waiting:
            return self._waiting[0].shape[1]
        return len(self._folded.mean) if self._folded else None


def _blocks(rows: Tensor) -> list[Tensor]:
    """Whole blocks, then what is left over (possibly no row)."""
    whole = len(rows) // BLOCK
    return [*rows[: whole * BLOCK].split(BLOCK), rows[whole * BLOCK :]]


def _fold(start: _Moments | None, blocks: list[Tensor]) -> _Moments:
    folded = [] if start is None else [start]
    return reduce(_Moments.plus, chain(folded, map(_Moments.of, blocks)))

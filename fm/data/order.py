"""Stream position -> sample, by arithmetic alone: the endless stream is one permutation of the data set after another.

Each epoch is the argsort of raw Philox words (numpy promises the words of its bit generators, not `permutation`), keyed
by a hash of seed, epoch and purpose. Never by seed + epoch: then seed 0, epoch 1 would be seed 1, epoch 0.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fm.errors import DataError, ValueUserError
from fm.lineage import canonical

VERSION = 1  # stands in checkpoints: another version is another order


def words(count: int, *key: str | int) -> NDArray[np.uint64]:
    """`count` raw 64-bit Philox words of the generator that the key names."""
    hashed = hashlib.blake2b(canonical(key).encode(), digest_size=16).digest()
    return np.random.Philox(key=np.frombuffer(hashed, "<u8").astype(np.uint64)).random_raw(count)


@lru_cache(maxsize=2)  # a batch that crosses an epoch needs two
def permutation(length: int, seed: int, epoch: int, purpose: str = "order") -> NDArray[np.int64]:
    """A read-only permutation of range(length); the sort is stable, so even equal words leave it defined."""
    result = np.argsort(words(length, seed, epoch, purpose), kind="stable")
    result.setflags(write=False)
    return result


@dataclass(frozen=True)
class Order:
    """The endless order of a data set of `length` samples: each exactly once in every epoch of `length` positions."""

    length: int
    seed: int

    def __post_init__(self) -> None:
        if self.length < 1:
            raise DataError("a data set without images has no order", mend="prepare one with at least one image")

    def at(self, positions: ArrayLike) -> NDArray[np.int64]:
        """Sample indices at stream positions (any shape, any order, both int64).

        Raises: ValueUserError for a negative position.
        """
        positions = np.asarray(positions, np.int64)
        if (positions < 0).any():
            raise ValueUserError(f"stream position {positions.min()} is negative", mend="positions count from 0")
        epochs, places = np.divmod(positions, self.length)
        indices = np.empty_like(places)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            indices[here] = permutation(self.length, self.seed, int(epoch))[places[here]]
        return indices

    def fingerprint(self) -> str:
        """16 hex digits of the first million positions, or the first 100 epochs if these are fewer: what a run and its
        checkpoints compare."""
        indices = self.at(np.arange(min(1_000_000, 100 * self.length))).astype("<i8")
        return hashlib.sha256(f"order {VERSION}".encode() + indices.tobytes()).hexdigest()[:16]

"""Stream position -> sample, by arithmetic alone: the endless stream has every sample exactly once in each epoch.

Two orders. `FullOrder` permutes everything, which takes a table of all samples. `BlockOrder` is for data larger than
memory or disk: it permutes the shards and mixes samples inside a window of shards that moves on by one shard a step.

Everything is the argsort of raw Philox words (numpy promises the words of its bit generators, not `permutation`), keyed
by a hash of seed, epoch and purpose. Never by seed + epoch: then seed 0, epoch 1 would be seed 1, epoch 0.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fm.errors import DataError, SettingsError, UserError, ValueUserError
from fm.lineage import canonical

VERSION = 1  # stands in checkpoints: another version is another order
Indices = NDArray[np.int64]


def words(count: int, *key: str | int) -> NDArray[np.uint64]:
    """`count` raw 64-bit Philox words of the generator that the key names."""
    hashed = hashlib.blake2b(canonical(key).encode(), digest_size=16).digest()
    return np.random.Philox(key=np.frombuffer(hashed, "<u8").astype(np.uint64)).random_raw(count)


def permutation(length: int, *key: str | int) -> Indices:
    """A permutation of range(length) that the key names; the sort is stable, so even equal words leave it defined.

    Raises: UserError if memory does not hold it.
    """
    try:
        return np.argsort(words(length, *key), kind="stable")
    except MemoryError:
        raise UserError(
            f"an order of {length:,} samples needs {16 * length / 1e9:,.1f} GB of memory",
            mend="set training.window_shards, for an order that holds no more than a window of shards",
        ) from None


def groups(values: ArrayLike) -> Iterator[tuple[int, Indices]]:
    """Each value that occurs, and where it stands (in the flattened array), ascending."""
    values = np.asarray(values).reshape(-1)
    by_value = np.argsort(values, kind="stable")
    for here in np.split(by_value, np.flatnonzero(np.diff(values[by_value])) + 1):
        if len(here):
            yield int(values[here[0]]), here


class Order(ABC):
    """The endless order of a data set whose shards hold `sizes` samples: at(positions) -> sample indices."""

    name: str
    """Which order it is: part of its fingerprint."""

    def __init__(self, sizes: Sequence[int], seed: int) -> None:
        self.sizes, self.seed = np.asarray(sizes, np.int64), seed
        self.length = int(self.sizes.sum())
        if not self.length:
            raise DataError("a data set without images has no order", mend="prepare one with at least one image")

    def at(self, positions: ArrayLike) -> Indices:
        """Sample indices at stream positions (any shape, any order, both int64).

        Raises: ValueUserError for a negative position.
        """
        positions = np.asarray(positions, np.int64)
        if (positions < 0).any():
            raise ValueUserError(f"stream position {positions.min()} is negative", mend="positions count from 0")
        epochs, places = np.divmod(positions, self.length)
        indices = np.empty_like(places)
        for epoch, here in groups(epochs):
            indices.flat[here] = self._in_epoch(epoch, places.flat[here])
        return indices

    @abstractmethod
    def _in_epoch(self, epoch: int, places: Indices) -> Indices:
        """Sample indices at the places of one epoch, which count from 0."""

    def windows(self, positions: Indices) -> Iterator[tuple[slice, frozenset[int] | None]]:
        """Cuts ascending positions where the window moves -> each piece, and the shards that are open in it (None: all
        may be)."""
        yield slice(0, len(positions)), None

    def fingerprint(self) -> str:
        """The order's name and 16 hex digits of the first million positions, or of the first 100 epochs if these are
        fewer: what a run and its checkpoints compare."""
        indices = self.at(np.arange(min(1_000_000, 100 * self.length))).astype("<i8")
        hashed = hashlib.sha256(f"{self.name} {VERSION}".encode() + indices.tobytes()).hexdigest()
        return f"{self.name} {hashed[:16]}"


class FullOrder(Order):
    """Each epoch is one permutation of all samples."""

    name = "full"

    def __init__(self, sizes: Sequence[int], seed: int) -> None:
        super().__init__(sizes, seed)
        self._permutation = lru_cache(maxsize=2)(permutation)  # a batch that crosses an epoch needs two

    def _in_epoch(self, epoch: int, places: Indices) -> Indices:
        return self._permutation(self.length, self.seed, epoch, "order")[places]


class BlockOrder(Order):
    """Each epoch permutes the shards, and mixes samples inside a window of `window` shards that moves on by one.

    The samples of each shard are permuted and cut into `window` parts. At step k of an epoch the window holds the k-th
    shard and those before it (around the epoch's ends); the step gives part 0 of the k-th, part 1 of the one before and
    so on, permuted together. So a shard enters, gives one part a step, and leaves when it is used up.
    """

    def __init__(self, sizes: Sequence[int], seed: int, window: int) -> None:
        super().__init__(sizes, seed)
        if window < 1:
            raise SettingsError(f"a window of {window} shards is empty", mend="use one of at least 1")
        self.name, self.window = f"blocks of {window}", min(window, len(self.sizes))
        self._first = np.cumsum(self.sizes) - self.sizes
        # Two, because a batch may cross an epoch or a step; more of the shards, because each is asked at every step.
        self._steps = lru_cache(maxsize=2)(self._find_steps)
        self._step = lru_cache(maxsize=2)(self._mix_step)
        self._samples = lru_cache(maxsize=self.window + 1)(self._permute_shard)

    def windows(self, positions: Indices) -> Iterator[tuple[slice, frozenset[int] | None]]:
        epochs, places = np.divmod(positions, self.length)
        steps = np.empty_like(places)
        for epoch, here in groups(epochs):
            steps[here] = self._step_of(epoch, places[here])
        cuts = [0, *(np.flatnonzero(np.diff(epochs) | np.diff(steps)) + 1).tolist(), len(positions)]
        for start, stop in pairwise(cuts):
            yield slice(start, stop), frozenset(self._window(int(epochs[start]), int(steps[start])).tolist())

    def _in_epoch(self, epoch: int, places: Indices) -> Indices:
        starts, steps = self._steps(epoch)[1], self._step_of(epoch, places)
        indices = np.empty_like(places)
        for step, here in groups(steps):
            indices[here] = self._step(epoch, step)[places[here] - starts[step]]
        return indices

    def _step_of(self, epoch: int, places: Indices) -> Indices:
        return np.searchsorted(self._steps(epoch)[1], places, side="right") - 1

    def _window(self, epoch: int, step: int) -> Indices:
        """The shards of a step, the newest first."""
        shards, _ = self._steps(epoch)
        return shards[(step - np.arange(self.window)) % len(shards)]

    def _find_steps(self, epoch: int) -> tuple[Indices, Indices]:
        """The epoch's sequence of shards, and the place where each step starts."""
        shards = permutation(len(self.sizes), self.seed, epoch, "shards")
        given = np.zeros_like(shards)
        for part in range(self.window):
            start, stop = self._cut(self.sizes[shards], part)
            given += np.roll(stop - start, part)
        return shards, np.cumsum(given) - given

    def _cut(self, size: Any, part: int) -> tuple[Any, Any]:
        """Where a part of a shard of that many samples starts and stops."""
        return size * part // self.window, size * (part + 1) // self.window

    def _mix_step(self, epoch: int, step: int) -> Indices:
        """The samples of a step."""
        parts = []
        for part, shard in enumerate(self._window(epoch, step).tolist()):
            samples = self._samples(epoch, shard)
            parts.append(samples[slice(*self._cut(len(samples), part))])
        mixed = np.concatenate(parts)
        return mixed[permutation(len(mixed), self.seed, epoch, "step", step)]

    def _permute_shard(self, epoch: int, shard: int) -> Indices:
        """The samples of a shard, permuted."""
        return self._first[shard] + permutation(int(self.sizes[shard]), self.seed, epoch, "shard", shard)


def order_of(sizes: Sequence[int], seed: int, window_shards: int | None = None) -> Order:
    """The order of a data set whose shards hold `sizes` samples: full, or blocks if a window is given."""
    return FullOrder(sizes, seed) if window_shards is None else BlockOrder(sizes, seed, window_shards)

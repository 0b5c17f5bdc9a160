"""This rank's share of each GLOBAL batch of the endless stream; a resume is one number, the images seen.

The batches, their order and each sample's stream position are the same at every world size: only who holds what
differs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count, islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fm.data.images import ShardedImages
from fm.data.order import Order, order_of
from fm.errors import SettingsError, UserError

if TYPE_CHECKING:  # torch costs seconds to import, and the workers that only prepare data never need it
    from torch import Tensor


class Batch(NamedTuple):
    """uint8 images (b, c, h, w); int64 labels, -1 where none; dataset indices, stable for life; stream positions; uint8
    small pictures (b, c, s, s) beside the images, if they were asked for.

    The images lie in memory as in the shards, (b, h, w, c): whoever needs another layout reorders them, a GPU for free.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    positions: Tensor
    low: Tensor | None = None


def share(batch: int, rank: int, world_size: int) -> range:
    """The places of a global batch that are this rank's: consecutive, each place with one rank, sizes within 1.

    Raises: SettingsError if some rank would be left without a sample, or there is no such rank.
    """
    if batch < world_size:
        raise SettingsError(
            f"a batch of {batch} images cannot be shared by {world_size} workers",
            mend=f"use a batch of at least {world_size} images or at most {batch} workers",
        )
    if not 0 <= rank < world_size:
        raise SettingsError(f"there is no rank {rank} among {world_size} workers", mend="ranks count from 0")
    return range(batch * rank // world_size, batch * (rank + 1) // world_size)


def batches(
    dataset: ShardedImages,
    batch: int,
    rank: int = 0,
    world_size: int = 1,
    seed: int = 0,
    start: int = 0,
    window_shards: int | None = None,
    ahead: int = 0,
    pin: bool = False,
    pairs: bool = False,
) -> Iterator[Batch]:
    """This rank's shares of the global batches of `batch` images, for ever, from stream position `start` on.

    start counts images seen and costs nothing to reach; batches cross epochs. With `window_shards` the order is that of
    blocks, and `dataset` has no more than so many shards open. A node that stages shards holds those of all its ranks'
    windows: one more for each shard by which ranks, and what they make ahead, are apart. Where ranks are apart by more
    than a window, one may stage anew what another has dropped. `ahead` batches are made beforehand, on a thread of
    their own; pin puts them into page-locked memory, from which copies to a GPU run beside its work. Neither changes
    what is in them. With `pairs` they hold the small pictures too.

    Raises: SettingsError at once for a batch smaller than the world, an unknown rank, an empty window or a negative
    start.
    """
    places = np.asarray(share(batch, rank, world_size), np.int64)
    if start < 0:
        raise SettingsError(f"start is {start} images seen", mend="it counts from 0")
    make = partial(_make, dataset, order_of(dataset.sizes, seed, window_shards), pin, pairs)
    positions = (first + places for first in count(start, batch))
    return _made_ahead(make, positions, ahead) if ahead else map(make, positions)


def _make(dataset: ShardedImages, order: Order, pin: bool, pairs: bool, positions: np.ndarray) -> Batch:
    """Raises: UserError if memory does not hold the batch."""
    import torch

    indices = order.at(positions)
    try:
        arrays = (torch.from_numpy(array) for array in _take(dataset, order, positions, indices, pairs))
        labels, *pictures = (array.pin_memory() if pin else array for array in arrays)
        images, *low = (picture.permute(0, 3, 1, 2) for picture in pictures)
    except MemoryError:
        raise UserError(f"{len(positions):,} images do not fit into memory", mend="use a smaller batch") from None
    return Batch(images, labels, torch.from_numpy(indices), torch.from_numpy(positions), *low)


def _take(
    dataset: ShardedImages, order: Order, positions: np.ndarray, indices: np.ndarray, pairs: bool
) -> Sequence[np.ndarray]:
    """Labels, images and, of pairs, small pictures; where the window of shards moves within the batch, shards close
    before others open."""
    pieces = []
    for piece, shards in order.windows(positions):
        dataset.keep(shards)
        images, labels = dataset.take(indices[piece])
        pieces.append((labels, images, dataset.low(indices[piece])) if pairs else (labels, images))
    return pieces[0] if len(pieces) == 1 else [np.concatenate(arrays) for arrays in zip(*pieces, strict=True)]


def _made_ahead(make: Callable[[np.ndarray], Batch], positions: Iterator[np.ndarray], ahead: int) -> Iterator[Batch]:
    """One thread makes them, one after another: the window of shards moves as it does without."""
    maker = ThreadPoolExecutor(1, "batches")
    try:
        coming = deque(maker.submit(make, at) for at in islice(positions, ahead))
        while True:
            coming.append(maker.submit(make, next(positions)))
            yield coming.popleft().result()
    finally:
        maker.shutdown(wait=False, cancel_futures=True)

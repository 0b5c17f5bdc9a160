"""This rank's share of each GLOBAL batch of the endless stream; a resume is one number, the images seen.

The batches, their order and each sample's stream position are the same at every world size: only who holds what
differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fm.data.images import ShardedImages
from fm.data.order import Order
from fm.errors import SettingsError

if TYPE_CHECKING:  # torch costs seconds to import, and the workers that only prepare data never need it
    from torch import Tensor


class Batch(NamedTuple):
    """uint8 images (b, c, h, w); int64 labels, -1 where none; dataset indices, stable for life; stream positions."""

    images: Tensor
    labels: Tensor
    indices: Tensor
    positions: Tensor


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
    dataset: ShardedImages, batch: int, rank: int = 0, world_size: int = 1, seed: int = 0, start: int = 0
) -> Iterator[Batch]:
    """This rank's shares of the global batches of `batch` images, for ever, from stream position `start` on.

    start counts images seen and costs nothing to reach; batches cross epochs.

    Raises: SettingsError at once for a batch smaller than the world, an unknown rank or a negative start.
    """
    places = np.asarray(share(batch, rank, world_size), np.int64)
    if start < 0:
        raise SettingsError(f"start is {start} images seen", mend="it counts from 0")
    return _stream(dataset, Order(len(dataset), seed), places, batch, start)


def _stream(dataset: ShardedImages, order: Order, places: np.ndarray, batch: int, start: int) -> Iterator[Batch]:
    import torch

    while True:
        positions = start + places
        indices = order.at(positions)
        images = torch.from_numpy(dataset.gather(indices)).permute(0, 3, 1, 2).contiguous()
        labels = torch.from_numpy(dataset.labels[indices])
        yield Batch(images, labels, torch.from_numpy(indices), torch.from_numpy(positions))
        start += batch

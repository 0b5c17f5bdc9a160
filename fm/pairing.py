"""Couplings over the stream: which position's noise goes with the image at each stream position.

Pairs are chosen inside fixed blocks of stream positions. Every rank works out the blocks that it needs from the same
images and the same noise, so the pairs do not depend on ranks, micro-batches, or where a run was resumed.
"""

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fm import noise
from fm.couplings import PERSISTENT, coupling
from fm.data import batches
from fm.drawing import data_at
from fm.errors import SettingsError
from fm.parallel import World
from fm.persistent import Persistent
from fm.training import Training

AHEAD = 2  # batches made while the network works

Stream = Callable[[int], Iterator[Any]]


class Paired(NamedTuple):
    """A batch, and for each of its images the stream position whose noise goes with it."""

    images: Tensor
    labels: Tensor
    indices: Tensor
    positions: Tensor
    noises: Tensor
    low: Tensor | None = None


def stream_of(
    dataset: Any,
    settings: Training,
    world: World,
    conditional: bool,
    device: str | torch.device = "cpu",
    pairs: bool = False,
) -> Stream:
    """What `fm.training.train` reads of a data set: this rank's shares of the global batches, with their noises, and of
    `pairs` with the small pictures."""
    on_gpu = torch.device(device).type == "cuda"
    ahead = AHEAD if on_gpu or not dataset.raw else 0  # copying alone is over before a thread has begun
    stream = partial(batches, seed=settings.seed, window_shards=settings.window_shards)

    def shares(start: int) -> Any:
        return stream(
            dataset, settings.batch_images, world.rank, world.size, start=start, ahead=ahead, pin=on_gpu, pairs=pairs
        )

    blocks_set = copy(dataset)  # whose shards open and close by themselves: `shares` may read on a thread

    def blocks(start: int) -> Any:
        return stream(blocks_set, settings.block_images, start=start)

    return paired(shares, blocks, settings, conditional, device, sum(dataset.sizes))


@dataclass(frozen=True)
class Keeping:
    """Batches with the noises that their images keep; `kept` is what a checkpoint holds of them."""

    batches_from: Stream
    kept: Persistent

    def __call__(self, start: int) -> Iterator[Paired]:
        self.kept.begin(start)
        for batch in self.batches_from(start):
            noises = self.kept.noises_of(batch.positions)
            yield Paired(batch.images, batch.labels, batch.indices, batch.positions, noises)


def paired(
    batches_from: Stream,
    blocks_from: Stream,
    settings: Training,
    conditional: bool = False,
    device: str | torch.device = "cpu",
    images: int = 0,
) -> Stream:
    """`batches_from` for `fm.training.train`, whose batches say which noise goes with each image.

    `blocks_from(start)` yields all images of the next `settings.block_images` stream positions, on every rank. For a
    `conditional` network noises stay within the data's labels, whatever labels training drops. The independent coupling
    leaves `batches_from` as it is, the persistent one needs the number of `images` and a network without labels.
    """
    if settings.coupling == "independent":
        return batches_from
    match = coupling(settings.coupling)
    if settings.coupling in PERSISTENT:
        if not images:
            raise SettingsError("keeps noises of images that come again, and these do not", "training.coupling")
        return Keeping(batches_from, Persistent(blocks_from, match, settings, images, device))

    @lru_cache(maxsize=1)  # a block larger than the batch serves several batches in a row
    def noises_of_block(start: int) -> Tensor:
        block = next(blocks_from(start))
        x_1 = data_at(block.images, block.positions, settings, device)
        z = noise.draws(settings.seed, "z", block.positions, x_1.shape[1:], device)
        permutation = match(z, x_1, block.labels if conditional else None)
        permutation = permutation.cpu()
        if not torch.equal(permutation.sort().values, torch.arange(len(z))):
            raise SettingsError(f"{settings.coupling} returns no permutation of {len(z)} noises", "training.coupling")
        return block.positions[permutation]

    def pairs_from(start: int) -> Iterator[Paired]:
        for batch in batches_from(start):
            positions = batch.positions
            starts = positions - positions % settings.block_images
            noises = torch.empty_like(positions)
            for first in starts.unique().tolist():
                here = starts == first
                noises[here] = noises_of_block(first)[positions[here] - first]
            yield Paired(batch.images, batch.labels, batch.indices, positions, noises, getattr(batch, "low", None))

    return pairs_from

"""The persistent coupling: every image keeps its noises for life, and inside each block they change places by an exact
assignment (LOOM: Davtyan et al. 2025). Over many blocks the pairs come close to the best ones of the whole data set.

Blocks are matched in the order of the stream, each once, by every rank alike; what has come of it is part of each
checkpoint, so that a resumed training goes on with the same pairs.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fm import noise
from fm.couplings import Coupling
from fm.drawing import data_at


class Persistent:
    """`table` (images, noises), int64: the numbers of the noises that each image has now, each number once.

    An image that comes by for the nth time has its noise n modulo `noises`. `blocks_from(start)` yields all images of
    the next block of stream positions.
    """

    def __init__(
        self,
        blocks_from: Callable[[int], Iterator[Any]],
        match: Coupling,
        settings: Any,
        images: int,
        device: str | torch.device = "cpu",
    ) -> None:
        self.images, self.noises = images, settings.coupling_noises or 1
        self.table = torch.arange(images * self.noises).view(images, self.noises)
        self._blocks_from, self._match, self._settings, self._device = blocks_from, match, settings, device
        self._next = 0  # the first position that is not matched yet
        # Of the newest blocks their start, the noises of their images, and the places in the table as they were before:
        # of all that a batch touches, and the next one, which may be drawn before a checkpoint of this one is written.
        self._newest: deque[tuple[int, Tensor, Tensor, Tensor]] = deque(
            maxlen=2 * -(-settings.batch_images // settings.block_images) + 2
        )

    def begin(self, start: int) -> None:
        """The next block is the one that holds this position; the table is the one of its start."""
        self._next = start - start % self._settings.block_images
        self._newest.clear()

    def at(self, images_seen: int) -> Tensor:
        """The table to go on with at `images_seen`: before the block that holds this position, and all later ones."""
        later = [block for block in self._newest if block[0] + self._settings.block_images > images_seen]
        if not later:
            return self.table
        table = self.table.clone()
        for _, _, places, before in reversed(later):
            table.view(-1)[places] = before
        return table

    def noises_of(self, positions: Tensor) -> Tensor:
        """The numbers of the noises of a rank's share of the next global batch, (n,) like `positions`."""
        settings = self._settings
        batch = int(positions[0]) // settings.batch_images
        while self._next < (batch + 1) * settings.batch_images:
            self._newest.append((self._next, *self._matched(next(self._blocks_from(self._next)))))
            self._next += settings.block_images
        found = torch.empty_like(positions)
        for start, numbers, _, _ in self._newest:
            here = (positions >= start) & (positions < start + settings.block_images)
            found[here] = numbers[positions[here] - start]
        return found

    def _matched(self, block: Any) -> tuple[Tensor, Tensor, Tensor]:
        """The noises of a block's images after they have changed places; the places, and what stood there before."""
        table = self.table.view(-1)
        own = block.indices * self.noises + block.positions // self.images % self.noises
        places, which = own.unique(return_inverse=True)  # an image that comes twice is matched once
        first = torch.full_like(places, len(own)).scatter_reduce(0, which, torch.arange(len(own)), "amin")
        before = table[places].clone()
        x_1 = data_at(block.images[first], block.positions[first], self._settings, self._device)
        z = noise.draws(self._settings.seed, "z", before, x_1.shape[1:], self._device)
        table[places] = before[self._match(z, x_1, None).cpu()]
        return table[own], places, before

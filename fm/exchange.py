"""The sum of all ranks' gradients, sent in pieces while the backward pass still works on the rest.

The pieces are cut once, from the end of the flat buffer to its start, as a backward pass fills it, and go in that order
on every rank: each number is always added in the same order, in a resumed run too.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.distributed as dist
from torch import Tensor

PIECE = 2**23  # numbers, 32 MiB: large enough for the full speed of a link, small enough that most go early


class Exchange:
    """Sums a flat buffer of gradients, laid out in the order of `parameters`, over all ranks, in place."""

    def __init__(self, flat: Tensor, parameters: Sequence[Tensor]) -> None:
        self.flat = flat
        self.pieces: list[slice] = []
        self._members: list[int] = []  # parameters in each piece
        self._missing: list[int] = []  # of them, those whose gradient is not there yet
        self._under_way: list[Any] = []
        self._early = False
        start = end = flat.numel()
        members = 0
        for parameter in reversed(parameters):
            parameter.register_post_accumulate_grad_hook(partial(self._filled, len(self.pieces)))
            start, members = start - parameter.numel(), members + 1
            if end - start >= PIECE or start == 0:
                self.pieces.append(slice(start, end))
                self._members.append(members)
                end, members = start, 0

    def early(self) -> None:
        """From now on a piece goes as soon as each of its parameters has got a gradient once more."""
        self._missing, self._early = list(self._members), True

    def broken_off(self) -> bool:
        """For a backward pass that failed: sends nothing early any more -> whether a piece had gone.

        If so all have gone when this returns, for the other ranks wait for them.
        """
        self._early, begun = False, bool(self._under_way)
        if begun:
            self.finish()
        return begun

    def finish(self) -> None:
        """Sends what is left and waits for all."""
        while len(self._under_way) < len(self.pieces):
            self._send()
        for piece in self._under_way:
            piece.wait()
        self._under_way, self._early = [], False

    def _filled(self, piece: int, _: Tensor) -> None:
        if self._early:
            self._missing[piece] -= 1
            while len(self._under_way) < len(self.pieces) and not self._missing[len(self._under_way)]:
                self._send()

    def _send(self) -> None:
        piece = self.pieces[len(self._under_way)]
        self._under_way.append(dist.all_reduce(self.flat[piece], async_op=True))

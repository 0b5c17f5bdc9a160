"""torch.distributed in a few functions: who works along, what all agree on, and one exact gradient for all.

Gradients live in one flat buffer that all ranks sum in fixed pieces (`fm.exchange`). DistributedDataParallel instead
rebuilds its buckets after the first step, so that from three ranks on a resumed run adds in another order than one that
was never stopped; here there is one order, for any number of ranks. The ranks' signals (stop, loss) are summed behind
them, by which all ranks decide alike.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fm.errors import UserError
from fm.exchange import Exchange
from fm.sharding import is_sharded, local, sharded_as

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes of one training, and which of them this is."""

    rank: int = 0
    size: int = 1

    @staticmethod
    def current() -> "World":
        """The world that torch.distributed was initialised with (by Ray, torchrun, a test), or a world of one."""
        if dist.is_available() and dist.is_initialized():
            return World(dist.get_rank(), dist.get_world_size())
        return ALONE

    @property
    def first(self) -> bool:
        """Whether this rank does what is done once: files, messages."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return any(self.gather(flag))

    def all(self, flag: bool) -> bool:
        """Whether the flag is set on all ranks."""
        return all(self.gather(flag))

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in their order, on every rank."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def once(self, work: Callable[[], T]) -> T:
        """The value of work() as rank 0 found it, on every rank; only rank 0 calls it.

        Raises: on every rank the UserError that work() raised, so that none waits for the others.
        """
        if self.size == 1:
            return work()
        outcome: list = [None]
        if self.first:
            try:
                outcome = [work()]
            except UserError as error:
                outcome = [error]
        dist.broadcast_object_list(outcome, src=0)
        if isinstance(outcome[0], UserError):
            raise outcome[0]
        return outcome[0]

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Overwrites each tensor with rank 0's values, in place."""
        if self.size > 1:
            for tensor in tensors:
                whole = tensor.detach().contiguous()
                dist.broadcast(whole, src=0)
                tensor.detach().copy_(whole)


ALONE = World()
SPOILED = "spoiled"


def parts(count: int, limit: int | None) -> list[slice]:
    """Cuts a share of `count` images into consecutive parts of at most `limit` (None = one part)."""
    step = limit or max(1, count)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


class Gradients:
    """The gradients of all parameters as views of one flat buffer, with named signals (name -> numbers) in its tail.

    Every parameter keeps its view for life: only `zero` clears it. Of sharded parameters (`fm.sharding`) the buffer
    holds this rank's parts, which the backward pass has summed over the ranks already.
    """

    def __init__(self, model: nn.Module, world: World, signals: Mapping[str, int]) -> None:
        self.world = world
        self.spoiled = False  # whether the last sum is of no use: a rank began anew while it was under way
        self._anew = False  # whether this one did
        trained = [p for p in model.parameters() if p.requires_grad]
        self.parameters, self.sharded = [local(p) for p in trained], any(map(is_sharded, trained))
        signals = {**signals, SPOILED: 1}
        count, like = sum(p.numel() for p in self.parameters), self.parameters[0]
        self.buffer = torch.zeros(count + sum(signals.values()), dtype=like.dtype, device=like.device)
        self.flat, self.tail = self.buffer[:count], self.buffer[count:]
        self.signals = dict(zip(signals, self.tail.split([*signals.values()]), strict=True))
        for parameter, view in zip(trained, self.views(self.flat), strict=True):
            parameter.grad = sharded_as(view, parameter)
        self.exchange = Exchange(self.flat, trained) if world.size > 1 and not self.sharded else None

    def views(self, flat: Tensor) -> list[Tensor]:
        """A flat buffer cut into the parameters' shapes and strides, so that all work on them is elementwise."""
        pieces = flat.split([p.numel() for p in self.parameters])
        return [
            x.as_strided(p.shape, p.stride(), x.storage_offset()) for x, p in zip(pieces, self.parameters, strict=True)
        ]

    def zero(self) -> None:
        if self.exchange and self.exchange.broken_off():
            self._anew = True
        self.buffer.zero_()

    def exchange_early(self) -> None:
        """The next backward pass is the last one before `reduce`: what it has done is summed while it goes on."""
        if self.exchange and not self._anew:
            self.exchange.early()

    def signal(self, name: str, value: Tensor | float) -> None:
        """Adds to this rank's signal; `reduce` sums it over the ranks."""
        self.signals[name] += value

    def reduce(self) -> dict[str, list[float]]:
        """Sums gradients and signals over ranks -> the signals; a non-finite gradient anywhere is then everywhere.

        If `spoiled` is true then, on every rank alike, gradients are to be computed and reduced once more.
        """
        if self.world.size > 1:
            if self.exchange:
                if not self._anew:  # else all its pieces have gone
                    self.exchange.finish()
                self.signal(SPOILED, self._anew)
                self._anew = False
            dist.all_reduce(self.tail)
        sums = iter(self.tail.tolist())
        found = {name: list(islice(sums, len(signal))) for name, signal in self.signals.items()}
        self.spoiled = found.pop(SPOILED)[0] > 0
        return found

    def clip(self, limit: float | None) -> float:
        """Scales the gradients to a joint norm of at most `limit` -> the norm before."""
        norm = torch.linalg.vector_norm(self.flat)
        if self.sharded:
            squares = norm.square()
            dist.all_reduce(squares)
            norm = squares.sqrt()
        if limit is not None:
            self.flat.mul_((limit / (norm + 1e-6)).clamp(max=1.0))
        return norm.item()

"""All that a training continues from, as tensors by file and name and as numbers; `fm/checkpoints.py` keeps it."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fm.ema import Ema
from fm.errors import CheckpointError
from fm.optimizer import Adam
from fm.parallel import World
from fm.sharding import fill, is_sharded, whole

Files = dict[str, dict[str, Tensor]]  # tensors by file and name


class Kept(Protocol):
    """What a coupling remembers of the stream so far."""

    def at(self, images_seen: int) -> Tensor: ...


class Snapshot(Protocol):
    """What can be kept as a checkpoint: tensors by file and name, the one called "ema" among them, and numbers."""

    @property
    def images_seen(self) -> int: ...

    def tensors(self) -> dict[str, dict[str, Tensor]]: ...

    def numbers(self) -> dict[str, Any]: ...


def _each(files: Files) -> Iterator[tuple[str, str, Tensor]]:
    return ((file, name, tensor) for file, tensors in files.items() for name, tensor in tensors.items())


@dataclass
class State:
    """All that a training continues from."""

    model: nn.Module
    optimizer: Adam
    averages: dict[str, Ema]
    images_seen: int = 0
    seconds: float = 0.0  # of training, over all resumes
    tally: dict[str, Any] = field(default_factory=dict)  # sums since the last report
    micro_batch_images: int | None = None  # most that fitted into a worker's memory; None = its whole share
    gathered: Files | None = None  # of a sharded state its whole tensors
    kept: Kept | None = None

    def tensors(self) -> Files:
        """The live tensors, by file and name; restoring copies into them."""
        if self.gathered is not None:
            return self.gathered
        averages = {name: ema.weights for name, ema in self.averages.items()}
        kept = {"coupling": {"noises": self.kept.at(self.images_seen)}} if self.kept else {}
        return {"model": self.model.state_dict(), **averages, "optimizer": self.optimizer.tensors(), **kept}

    def whole(self, first: bool) -> "State":
        """The state to save or restore: itself, or if it is sharded a copy of whole tensors on the CPU (collective).

        Only the first rank keeps the copies: it alone reads and writes.
        """
        live = self.tensors()
        if not any(map(is_sharded, live["model"].values())):
            return self
        gathered: Files = {file: {} for file in live}
        for file, name, tensor in _each(live):
            value = whole(tensor)
            if first:
                gathered[file][name] = value.to("cpu", copy=True)
        return replace(self, gathered=gathered)

    def share(self, restored: "State", world: World) -> None:
        """Gives every rank what the first one restored (collective): numbers and tensors."""
        self.set_numbers(world.once(restored.numbers))
        if restored is self:
            return world.share(tensor for _, _, tensor in _each(self.tensors()))
        for file, name, tensor in _each(self.tensors()):
            fill(tensor, restored.tensors()[file].get(name))

    def numbers(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("images_seen", "seconds", "tally", "micro_batch_images")}

    def set_numbers(self, numbers: dict[str, Any]) -> None:
        for name in self.numbers():
            setattr(self, name, numbers[name])


@dataclass(frozen=True)
class Weights:
    """A snapshot of a network that is used and not trained: one set of weights, no optimiser."""

    weights: dict[str, Tensor]
    images_seen: int

    def tensors(self) -> Files:
        return {"ema": self.weights}

    def numbers(self) -> dict[str, Any]:
        return {"images_seen": self.images_seen, "seconds": 0.0, "tally": {}, "micro_batch_images": None}


def copy_into(live: Files, stored: Files, folder: Path) -> None:
    """Copies in place, after all names and shapes were compared: memory layout and devices stay as they are."""
    differ = list(differing(live, stored))
    if differ:
        raise CheckpointError(f"is of another network ({'; '.join(differ[:3])})", where=str(folder))
    with torch.no_grad():
        for file, tensors in live.items():
            for name, tensor in tensors.items():
                tensor.copy_(stored[file][name])


def differing(live: Files, stored: Files) -> Iterator[str]:
    """In words, each name or shape that is not the same in both, by file and name."""
    if odd := sorted(live.keys() ^ stored.keys()):
        yield f"{', '.join(odd)} {'is' if len(odd) == 1 else 'are'} on one side only"
    for file in filter(stored.__contains__, live):
        for name in sorted(live[file].keys() | stored[file].keys()):
            shapes = [list(side[name].shape) if name in side else "absent" for side in (live[file], stored[file])]
            if shapes[0] != shapes[1]:
                yield f"{name} is {shapes[1]}, not {shapes[0]}"

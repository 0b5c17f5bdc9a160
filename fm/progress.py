"""What a training tells: how it started and how it goes on; and the sums that its reports are made of."""

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from fm.state import State

TENTHS = 10
GRID = 16  # samples of the grid that is drawn at a checkpoint
RUNAWAY = 1e6  # times the lowest loss of a step so far: no training comes back from there


@dataclass(frozen=True)
class Started:
    """How a training went on: `restored` from where, in words; the averages' half-lives and decay a step, by name."""

    images_seen: int
    restored: str
    workers: int
    micro_batch_images: int
    averages: dict[str, str]


@dataclass(frozen=True)
class Progress:
    """A report: loss is the mean since the last one, over all ranks; the norm is the last step's, before clipping.

    `loss_by_t` is the loss of the tenths of [0, 1] that t fell into; None where there was none.
    """

    images_seen: int
    loss: float
    images_per_s: float
    learning_rate: float
    grad_norm: float
    seconds: float
    loss_by_t: tuple[float | None, ...] = ()

    def values(self) -> dict[str, Any]:
        """Flat, as a row of the records: loss_t0 is the loss for t in [0, 0.1)."""
        flat = asdict(self)
        tenths = enumerate(flat.pop("loss_by_t"))
        return flat | {f"loss_t{tenth}": loss for tenth, loss in tenths if loss is not None}


def by_tenth(loss: Tensor, t: Tensor) -> Tensor:
    """(20,): sums of the loss (batch,) by the tenth of [0, 1] that t (batch,) is in, then how many are in each.

    Without a scatter, whose order of additions is not the same twice on a GPU.
    """
    t = t.to(loss.device, non_blocking=True)
    inside = (t * TENTHS).long().clamp(0, TENTHS - 1)[:, None] == torch.arange(TENTHS, device=t.device)
    return torch.cat([loss @ inside.to(loss.dtype), inside.sum(0)])


class Clock:
    """Time and sums between two reports; the sums are part of the state, so a resumed run reports the same means."""

    def __init__(self, state: State) -> None:
        self.state, self.before = state, state.seconds
        self.start = self.last = time.monotonic()
        self.images = state.images_seen
        state.tally = state.tally or {"sums": [0.0] * 2 * TENTHS, "lowest": None}

    def seconds(self) -> float:
        """Seconds of training, earlier sessions included."""
        return self.before + time.monotonic() - self.start

    def count(self, sums: list[float]) -> bool:
        """Adds the step's sums by tenth of t, unless its loss is past all bounds -> whether it is not."""
        tally, loss = self.state.tally, _mean(sums)
        lowest = loss if tally["lowest"] is None else tally["lowest"]
        if not math.isfinite(loss) or loss > RUNAWAY * max(lowest, 1 / RUNAWAY):
            return False
        tally["sums"] = [old + new for old, new in zip(tally["sums"], sums, strict=True)]
        tally["lowest"] = min(loss, lowest)
        return True

    def report(self, rate: float, norm: float) -> Progress:
        now, sums, seen = time.monotonic(), self.state.tally["sums"], self.state.images_seen
        speed = (seen - self.images) / max(now - self.last, 1e-9)
        self.last, self.images = now, seen
        self.state.tally["sums"] = [0.0] * 2 * TENTHS
        by_t = tuple(loss / n if n else None for loss, n in zip(sums[:TENTHS], sums[TENTHS:], strict=True))
        return Progress(seen, _mean(sums), speed, rate, norm, self.seconds(), by_t)


def _mean(sums: list[float]) -> float:
    return sum(sums[:TENTHS]) / sum(sums[TENTHS:])


def due(images_seen: int, step: int, every: int) -> bool:
    """Whether the step that ended at `images_seen` crossed a multiple of `every`."""
    return images_seen // every > (images_seen - step) // every

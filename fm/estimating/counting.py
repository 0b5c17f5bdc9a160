"""What a training takes as far as it follows from its settings alone: nothing is run, and no weights are made."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from fm.errors import several
from fm.estimating.measuring import Data
from fm.estimating.units import in_bytes, short
from fm.footprint import Activations, activations, sampling_bytes
from fm.models.cost import SLOWER, STATED, cost, h100_hours
from fm.recipe import Recipe


@dataclass(frozen=True)
class Counted:
    """The head of an estimate."""

    name: str
    pixels: str
    parameters: int
    batch_images: int
    images: int  # seen when the training ends, unless its time limit ends it
    workers: int
    precision: str
    flops: int  # of the training, by those of the forward pass
    held: Activations
    sampling: tuple[int, int]  # bytes of one image while it is drawn, and images drawn at once

    def text(self) -> str:
        """Three lines."""
        network = f"{self.name}: {self.pixels}, {short(self.parameters / 1e6)} M parameters"
        seen = f"batches of {self.batch_images:,}, {self.images:,} images seen, {several(self.workers, 'worker')}"
        hours = f"{self.flops:.1e} FLOP, {h100_words(self.flops, self.precision)} (at {STATED})"
        each, batch = self.sampling
        memory = f"{in_bytes(each * batch)} beside the weights for {several(batch, 'image')} drawn at once"
        return f"{network}, {seen}\nthe training by FLOP, not measured: {hours}\nsampling, counted: {memory}"

    def values(self) -> dict[str, Any]:
        """The same for scripts."""
        values = vars(self) | {"training_flops": self.flops, "h100_hours_by_flops": h100_hours(self.flops)}
        values["sampling_bytes"] = math.prod(self.sampling)
        return {name: value for name, value in values.items() if name not in ("held", "flops", "sampling")}


def h100_words(flops: float, precision: str) -> str:
    """`79 H100-hours in bf16, 110 in tf32, 430 in fp32`: at `UTILISATION`, then slower up to the precision that
    trains."""
    hours, names = h100_hours(flops), [*SLOWER]
    slower = names[: names.index(precision) + 1] if precision in SLOWER else []
    own = "".join(f", {short(hours * SLOWER[name], 2)} in {name}" for name in slower)
    return f"{short(hours, 2)} H100-hours in bf16{own}"


def count(recipe: Recipe, data: Data, workers: int) -> Counted:
    """For images of the data's size, whatever the recipe's own."""
    side, own = data.shape[-1], recipe.data.size
    pixels = f"{side} x {side} pixels"
    if side != own:
        pixels += f" of DATA (the preset's are {own} x {own})"
    with torch.device("meta"):
        model, objective = recipe.build(data.shape, data.classes or None)
        held = activations(model, data.shape)
    counted, training = cost(model, side, data.shape[0]), recipe.training
    flops = counted.training_flops(training.total_images, objective.passes)
    sizes = counted.parameters, training.batch_images, training.total_images
    drawn = sampling_bytes(model, data.shape), recipe.evaluation.batch
    return Counted(recipe.name, pixels, *sizes, workers, training.precision, flops, held, drawn)

"""Exponential moving averages of the weights, each stated as a half-life in kimg and capped while a run is young.

The cap (the ramp of Karras et al. 2020) keeps the half-life below a share of the images seen so far. While it holds,
the average is EDM2's power function (Karras et al. 2024, eq. 4, with gamma + 1 = ln 2 / ramp), so a run of any length
ends with a useful average.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fm.sharding import local


def decay(halflife_kimg: float, ramp: float, images_seen: int, batch_images: int) -> float:
    """The share of the old average that one step keeps; `images_seen` includes the step's own images.

    The half-life is `halflife_kimg` thousand images, or `ramp` times the images seen where that is less (0 = no cap).
    """
    halflife = halflife_kimg * 1000
    if ramp > 0:
        halflife = min(halflife, ramp * images_seen)
    return 0.5 ** (batch_images / halflife) if halflife > 0 else 0.0


class Ema:
    """The averaged weights by name; buffers are copied, since a mean of counters has no meaning."""

    def __init__(self, model: nn.Module, halflife_kimg: float, ramp: float) -> None:
        self.halflife_kimg, self.ramp = halflife_kimg, ramp
        self.weights: dict[str, Tensor] = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.own = [local(self.weights[name]) for name, _ in model.named_parameters()]
        self.models = [local(parameter) for parameter in model.parameters()]

    @torch.no_grad()
    def update(self, model: nn.Module, images_seen: int, batch_images: int) -> None:
        """Moves the average towards the model's weights after a step of `batch_images` that ended at `images_seen`."""
        share = 1 - decay(self.halflife_kimg, self.ramp, images_seen, batch_images)
        # In one launch: on a GPU hundreds of small ones would take longer than the sums.
        torch._foreach_lerp_(self.own, self.models, share)
        for name, buffer in model.named_buffers():
            if name in self.weights:
                self.weights[name].copy_(buffer)


def averages(model: nn.Module, halflives_kimg: Sequence[float], ramp: float) -> dict[str, Ema]:
    """The averages of one training by name: the first is "ema", the others tell their half-life, as "ema_50kimg"."""
    names = ["ema", *(f"ema_{halflife:g}kimg" for halflife in halflives_kimg[1:])]
    return {name: Ema(model, halflife, ramp) for name, halflife in zip(names, halflives_kimg, strict=True)}


def in_words(halflife_kimg: float, ramp: float, batch_images: int) -> str:
    """`half-life 500 kimg, 0.999911 a step from 5000 kimg on`: what others state as the decay, and the ramp's end."""
    after = f" from {halflife_kimg / ramp:g} kimg on" if ramp and halflife_kimg else ""
    return f"half-life {halflife_kimg:g} kimg, {decay(halflife_kimg, 0.0, 0, batch_images):.6g} a step{after}"

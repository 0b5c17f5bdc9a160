"""The exponential moving average of a network's weights, stated as a half-life in kimg and capped while a run is young.

The cap (the ramp of Karras et al. 2020) keeps the half-life below a share of the images seen so far. While it holds,
the average is EDM2's power function (Karras et al. 2024, eq. 4, with gamma + 1 = ln 2 / ramp), so a run of any length
ends with a useful average.
"""

import torch
from torch import Tensor, nn


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

    @torch.no_grad()
    def update(self, model: nn.Module, images_seen: int, batch_images: int) -> None:
        """Moves the average towards the model's weights after a step of `batch_images` that ended at `images_seen`."""
        share = 1 - decay(self.halflife_kimg, self.ramp, images_seen, batch_images)
        for name, parameter in model.named_parameters():
            self.weights[name].lerp_(parameter, share)
        for name, buffer in model.named_buffers():
            if name in self.weights:
                self.weights[name].copy_(buffer)

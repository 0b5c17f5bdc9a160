"""Moving averages of the weights: exponential ones, each stated as a half-life in kimg and capped while a run is young;
and such by a power function, from which those of any other length are made when the training is over.

The cap (the ramp of Karras et al. 2020) keeps the half-life below a share of the images seen so far. While it holds,
the average is EDM2's power function (Karras et al. 2024, eq. 4, with gamma + 1 = ln 2 / ramp), so a run of any length
ends with a useful average.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fm.errors import SettingsError
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

    def kept(self, images_seen: int, batch_images: int) -> float:
        """The share of the old average that a step keeps which ended at `images_seen`."""
        return decay(self.halflife_kimg, self.ramp, images_seen, batch_images)

    def stated(self, batch_images: int) -> str:
        """What it is, in words."""
        return in_words(self.halflife_kimg, self.ramp, batch_images)

    @torch.no_grad()
    def update(self, model: nn.Module, images_seen: int, batch_images: int) -> None:
        """Moves the average towards the model's weights after a step of `batch_images` that ended at `images_seen`."""
        share = 1 - self.kept(images_seen, batch_images)
        # In one launch: on a GPU hundreds of small ones would take longer than the sums.
        torch._foreach_lerp_(self.own, self.models, share)
        for name, buffer in model.named_buffers():
            if name in self.weights:
                self.weights[name].copy_(buffer)


class PowerEma(Ema):
    """The average in which the state at s weighs (s / t)^gamma at t (Karras et al. 2024, eq. 4)."""

    def __init__(self, model: nn.Module, length: float) -> None:
        super().__init__(model, 0.0, 0.0)
        self.length, self.gamma = length, gamma_of(length)

    def kept(self, images_seen: int, batch_images: int) -> float:
        return (1 - batch_images / images_seen) ** (self.gamma + 1)

    def stated(self, batch_images: int) -> str:
        return f"power function of length {self.length:g}, gamma {self.gamma:.4g}"


def gamma_of(length: float) -> float:
    """The exponent whose profile has this standard deviation, as a share of the training so far, 0 < length < 0.288:
    length^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)) (Karras et al. 2024, eq. 5)."""
    # With x = gamma + 1 a cubic, whose largest root is above 1; another lies below, where gamma is negative.
    roots = np.roots([1.0, 4.0, 5.0 - length**-2, 2.0])
    return float(max(roots.real[abs(roots.imag) < 1e-9])) - 1


class Snapshot(NamedTuple):
    """A power-function average that was kept: of which exponent, and when, in images seen."""

    gamma: float
    images_seen: float


class Combined(NamedTuple):
    """How snapshots make an average: their coefficients (n,), which sum to 1, and the profile's relative error."""

    coefficients: NDArray[np.float64]
    error: float


BINS = 8192  # in which profiles are compared


def combined(snapshots: Sequence[Snapshot], due: Snapshot) -> Combined:
    """The coefficients whose sum of snapshots has the profile nearest to the one that is due (Karras et al. 2024,
    section 3.2), by least squares over the training cut into bins."""
    edges = np.linspace(0.0, due.images_seen, BINS + 1)
    profiles = np.stack([_profile(one, edges) for one in snapshots], axis=1)
    wanted, firm = _profile(due, edges), 1e3  # the row that holds the sum at 1 outweighs all others
    rows = np.vstack([profiles, np.full((1, len(snapshots)), firm)])
    found = np.linalg.lstsq(rows, np.append(wanted, firm), rcond=1e-12)[0]
    return Combined(found, float(np.linalg.norm(profiles @ found - wanted) / np.linalg.norm(wanted)))


def _profile(one: Snapshot, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weight of the states in each bin: the integral of the profile is a power, so this is exact."""
    return np.diff((edges.clip(0.0, one.images_seen) / one.images_seen) ** (one.gamma + 1))


def averages(
    model: nn.Module, halflives_kimg: Sequence[float], ramp: float, lengths: Sequence[float] = ()
) -> dict[str, Ema]:
    """The averages of one training by name: the first is "ema", the others tell their half-life, as "ema_50kimg", or
    their length, as "ema_power_0.1"."""
    names = ["ema", *(f"ema_{halflife:g}kimg" for halflife in halflives_kimg[1:])]
    found = {name: Ema(model, halflife, ramp) for name, halflife in zip(names, halflives_kimg, strict=True)}
    return found | {power_name(length): PowerEma(model, length) for length in lengths}


def check(settings: Any) -> None:
    """Raises: SettingsError for averages of a training that are the same, or of which no others could be made."""
    halflives, lengths = settings.ema_halflife_kimg, settings.ema_lengths
    if len(set(halflives)) < len(halflives):
        raise SettingsError("two half-lives are the same", where="training.ema_halflife_kimg", mend="leave one out")
    if lengths is not None and (len(lengths) < 2 or len({*map(power_name, lengths)}) < len(lengths)):
        what = "others are made of two lengths or more, no two the same"
        raise SettingsError(what, "training.ema_lengths", "set [0.05, 0.1], or leave it empty")
    if lengths and settings.keep_every_images is None:
        what = "others are made of the averages in checkpoints that are kept, and none is"
        raise SettingsError(what, "training.ema_lengths", "set training.keep_every_images to a tenth of the training")


def power_name(length: float) -> str:
    return f"ema_power_{length:g}"


def in_words(halflife_kimg: float, ramp: float, batch_images: int) -> str:
    """`half-life 500 kimg, 0.999911 a step from 5000 kimg on`: what others state as the decay, and the ramp's end."""
    after = f" from {halflife_kimg / ramp:g} kimg on" if ramp and halflife_kimg else ""
    return f"half-life {halflife_kimg:g} kimg, {decay(halflife_kimg, 0.0, 0, batch_images):.6g} a step{after}"

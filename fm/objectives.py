"""What the network predicts: loss per sample, and the velocity a prediction stands for. Randomness is handed in.

The network is any callable model(x, t, y=None) with t (batch,) and labels y (batch,), where -1 means "no label".
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from fm import plugins
from fm.errors import SettingsError, ValueUserError
from fm.paths import AnyPath, Path, PathSample

NO_LABEL = -1
Model = Callable[..., Tensor]


@dataclass(frozen=True)
class Objective(ABC):
    """A prediction target on a path; the loss is the mean over dimensions of its squared residual."""

    path: Path

    @abstractmethod
    def residual(self, out: Tensor, sample: PathSample) -> Tensor:
        """Weighted difference of the network's output and its target at a point of the path, like x."""

    @abstractmethod
    def to_velocity(self, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The velocity that the network's output stands for at (x, t)."""

    def seen(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """What the network is told of a state and its time: all of it."""
        return x, t

    def loss(
        self, model: Model, x_1: Tensor, *, t: Tensor, z: Tensor, y: Tensor | None = None, cond: Tensor | None = None
    ) -> Tensor:
        """Loss of each sample, (batch,), for data x_1, times t (batch,), unit noise z like x_1.

        `cond` (batch, channels, ...) is given to the network beside x_t, after its channels.
        """
        sample = self.path.sample(z, x_1, t)
        t = t.to(x_1.device, non_blocking=True)
        out = _call(model, *self.seen(sample.x_t, t), y, cond)
        return self.residual(out, sample._replace(t=t)).square().flatten(1).mean(1)

    def velocity(
        self,
        model: Model,
        y: Tensor | None = None,
        cond: Tensor | None = None,
        guidance: float = 0.0,
        interval: tuple[float, float] = (0.0, 1.0),
        guide: Model | None = None,
    ) -> "Velocity":
        """The velocity to sample with; `guidance` g gives v_weak + (1 + g)(v - v_weak): 0.0 is plain conditional.

        v_weak is the network's without label (classifier-free guidance, Ho & Salimans 2022), or that of `guide`, a
        weaker network of the same objective with the same label (autoguidance, Karras et al. 2024). Only times in
        `interval` are guided (Kynkäänniemi et al. 2024); elsewhere an evaluation is one call.

        Raises: SettingsError for guidance without labels or guide, and for an empty interval.
        """
        if guidance and y is None and guide is None:
            raise SettingsError(f"guidance {guidance} without a label to guide to", mend="give y, or guidance 0")
        if not 0 <= interval[0] < interval[1] <= 1:
            raise SettingsError(f"{interval} is no part of the times 0 to 1", where="interval")
        return Velocity(self, model, y, cond, guidance, interval, guide)


@dataclass(frozen=True)
class Velocity:
    """velocity(x, t) of a network under an objective, t a scalar tensor or (batch,); labels stay with their samples."""

    objective: Objective
    model: Model
    y: Tensor | None = None
    cond: Tensor | None = None
    guidance: float = 0.0
    interval: tuple[float, float] = (0.0, 1.0)
    guide: Model | None = None

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        out = _call(self.model, *self.objective.seen(x, t), self.y, self.cond)
        if self.guidance:
            out = self._guide(out, x, t.expand(len(x)))
        return self.objective.to_velocity(out, x, t)

    @property
    def path(self) -> Path:
        return self.objective.path

    def network_calls(self, t: Tensor) -> Tensor:
        """Network calls of an evaluation at t, like t or one for all: what NFE counts."""
        return 1 + self._guided(t).long() if self.guidance else torch.ones((), dtype=torch.int64)

    def rows(self, index: Tensor | slice) -> "Velocity":
        """The velocity of some samples of the batch (an index, a mask or a slice)."""
        y, cond = (None if part is None else part[index] for part in (self.y, self.cond))
        return replace(self, y=y, cond=cond)

    def _guided(self, t: Tensor) -> Tensor:
        return (t >= self.interval[0]) & (t <= self.interval[1])

    def _guide(self, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Each conversion to a velocity is affine in the output, so guiding outputs is guiding velocities."""
        rows = self._guided(t).nonzero().squeeze(1)
        if not len(rows):
            return out
        weak = self.rows(rows)._weak(x[rows], t[rows])
        return out.index_copy(0, rows, weak + (1 + self.guidance) * (out[rows] - weak))

    def _weak(self, x: Tensor, t: Tensor) -> Tensor:
        x, t = self.objective.seen(x, t)
        if self.guide is not None:
            return _call(self.guide, x, t, self.y, self.cond)
        return _call(self.model, x, t, torch.full((len(x),), NO_LABEL, device=x.device), self.cond)


@dataclass(frozen=True)
class FlowMatching(Objective):
    """The network predicts the velocity: conditional flow matching, equations (9), (14) and (23).

    Its gradient is that of flow matching, equation (5), and its minimiser the marginal velocity: Theorem 2.
    """

    def residual(self, out: Tensor, sample: PathSample) -> Tensor:
        return out - sample.u_t

    def to_velocity(self, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return out


@dataclass(frozen=True)
class NoiseMatching(Objective):
    """The network predicts z, unweighted, equations (44) and (45): DDPM (Ho et al. 2020)."""

    def residual(self, out: Tensor, sample: PathSample) -> Tensor:
        return out - sample.z

    def to_velocity(self, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return self.path.velocity_from_noise(out, x, t)


@dataclass(frozen=True)
class ScoreMatching(Objective):
    """The network's score, weighted by sigma_t^2, equations (42) and (43) with the true sign (Song & Ermon 2019).

    "raw": the output is the score. "scaled": the score is -output / sigma_t, and this loss is NoiseMatching's.
    """

    output: Literal["raw", "scaled"] = "raw"

    def __post_init__(self) -> None:
        if self.output not in ("raw", "scaled"):
            raise SettingsError(f"unknown score output {self.output!r}", where="output", mend="known: raw, scaled")

    def residual(self, out: Tensor, sample: PathSample) -> Tensor:
        # sigma (score + z / sigma) without the division: finite wherever sigma is.
        scaled = out if self.output == "scaled" else -self.path.sigma(sample.t, sample.z) * out
        return scaled - sample.z

    def to_velocity(self, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        if self.output == "scaled":
            return self.path.velocity_from_noise(out, x, t)
        return self.path.velocity_from_score(out, x, t)


@dataclass(frozen=True)
class ScoreFlow(ScoreMatching):
    """The network's score, weighted by the squared diffusion, equation (42) (Song, Durkan et al. 2021).

    For VP the weight is beta(1 - t).
    """

    def residual(self, out: Tensor, sample: PathSample) -> Tensor:
        weight = 2 * self.path.score_coefficient(sample.t, sample.z)
        return weight.sqrt() / self.path.sigma(sample.t, sample.z) * super().residual(out, sample)


@dataclass(frozen=True)
class Regression(Objective):
    """The network predicts x_1 from its condition alone: the mean of what may belong to it, no sample.

    The baseline of super-resolution (Saharia et al. 2021, section 4). Its flow leads each noise to that one prediction.
    """

    def seen(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(x), torch.zeros_like(t)

    def residual(self, out: Tensor, sample: PathSample) -> Tensor:
        return out - sample.x_1

    def to_velocity(self, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return self.path.velocity_from_data(out, x, t)


def drop_labels(y: Tensor, u: Tensor, rate: float) -> Tensor:
    """Labels, those of a share `rate` removed by u (batch,) uniform on (0, 1): classifier-free training."""
    return torch.where(u.to(y.device) < rate, NO_LABEL, y)


def _call(model: Model, x: Tensor, t: Tensor, y: Tensor | None, cond: Tensor | None) -> Tensor:
    for what, part in (("labels", y), ("conditions", cond)):
        if part is not None and len(part) != len(x):
            raise ValueUserError(f"{len(part)} {what} given for {len(x)} samples")
    given = x if cond is None else torch.cat([x, cond], dim=1)
    t = t.expand(len(x))
    out = model(given, t) if y is None else model(given, t, y)
    if out.shape != x.shape:
        raise ValueUserError(f"the network answers shape {tuple(out.shape)} to {tuple(x.shape)}")
    return out


OBJECTIVES: dict[str, Callable[[AnyPath], Objective]] = {
    "flow_matching": FlowMatching,
    "noise_matching": NoiseMatching,
    "regression": Regression,
    "score_matching_raw": partial(ScoreMatching, output="raw"),
    "score_matching_scaled": partial(ScoreMatching, output="scaled"),
    "score_flow_raw": partial(ScoreFlow, output="raw"),
    "score_flow_scaled": partial(ScoreFlow, output="scaled"),
}


def objective(name: str) -> Callable[[AnyPath], Objective]:
    """The objective of that name, or at that import path, as a function of its path.

    Raises: SettingsError that names the nearest.
    """
    return plugins.member(name, OBJECTIVES, plugins.derived(Objective), "objective", "objective")

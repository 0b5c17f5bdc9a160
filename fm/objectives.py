"""What the network predicts: loss per sample, and the velocity a prediction stands for. Randomness is handed in.

The network is any callable model(x, t, y=None) with t (batch,) and labels y (batch,), where -1 means "no label"; of an
objective that jumps it is told h = s - t (batch,) too, the time to where the step ends: model(x, t, y=None, h=None).
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from fm import plugins
from fm.errors import SettingsError, ValueUserError
from fm.paths import AnyPath, Path, PathSample

NO_LABEL = -1
Model = Callable[..., Tensor]


@dataclass(frozen=True)
class Objective(ABC):
    """A prediction target on a path; the loss is the mean over dimensions of its squared residual."""

    path: Path
    jumps: ClassVar[bool] = False  # whether the network predicts mean velocities, and is told how far ahead
    passes: ClassVar[float] = 3.0  # what a training step costs, in forward passes: the backward pass takes two

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

    def jump(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The mean velocity on the way from x at t to a later time s: x + (s - t) of it is the state there.

        Raises: SettingsError where the network predicts none, and for guidance.
        """
        if not self.objective.jumps:
            mend = "train with objective=mean_flow or objective=shortcut, or choose another solver"
            raise SettingsError("this network predicts no mean velocity to jump by", "method", mend)
        if self.guidance:
            raise SettingsError("a jump is not guided", "guidance", "leave it out, or choose another solver")
        return _call(self.model, x, t, self.y, self.cond, s - t)

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


@dataclass(frozen=True)
class Shortcut(FlowMatching):
    """The network predicts u(x_t, t, s), the mean velocity on the way from t to a later time s (Frans et al. 2025).

    A jump is learned as the mean of its two halves, one after the other, without gradient: their self-consistency, with
    jumps of any length (as Guo et al. 2025 split them) in place of powers of two. For s = t it is FlowMatching, which
    anchors the rest. Targets are of the network as it trains, where they take its average.
    """

    jumps: ClassVar[bool] = True
    passes: ClassVar[float] = 3.5
    share: ClassVar[float] = 0.25  # of the samples, that learn a jump

    def loss(
        self,
        model: Model,
        x_1: Tensor,
        *,
        t: Tensor,
        z: Tensor,
        y: Tensor | None = None,
        cond: Tensor | None = None,
        s: Tensor | None = None,
    ) -> Tensor:
        """As of each objective; samples with s > t, s (batch,), learn the jump to s, the others the velocity."""
        if s is None:
            return self.weighted(super().loss(model, x_1, t=t, z=z, y=y, cond=cond))
        sample = self.path.sample(z, x_1, t)
        t = t.to(x_1.device, non_blocking=True)
        s = s.to(x_1.device, non_blocking=True)
        out = _call(model, sample.x_t, t, y, cond, s - t)
        rows, target = (s > t).nonzero().squeeze(1), sample.u_t
        if len(rows):
            own_y, own_cond = None if y is None else y[rows], None if cond is None else cond[rows]
            ahead = partial(_ahead, model, own_y, own_cond)
            with torch.no_grad():
                found = self.target(ahead, sample.x_t[rows], t[rows], s[rows], target[rows])
            target = target.index_copy(0, rows, found.to(target.dtype))
        return self.weighted((out - target).square().flatten(1).mean(1))

    def target(self, ahead: "Ahead", x: Tensor, t: Tensor, s: Tensor, u: Tensor) -> Tensor:
        """What the mean velocity from t to s > t is taken for, like x; u is the conditional velocity at x."""
        middle = (t + s) / 2
        first = ahead(x, t, middle - t)
        return (first + ahead(x + _column(middle - t, x) * first, middle, s - middle)) / 2

    def weighted(self, loss: Tensor) -> Tensor:
        """The loss (batch,) as it is."""
        return loss


@dataclass(frozen=True)
class MeanFlow(Shortcut):
    """The network predicts the mean velocity u(x_t, t, s), learned from its own derivative (Geng et al. 2025).

    u = v + (s - t) du/dt along the way, their identity with time from noise to data; the derivative by forward-mode
    differentiation, without gradient. The gradient of each sample's loss is divided by the root of the loss, their
    adaptive weight with p = 1/2; the value stays what it is. What it learns is then a geometric median, for s = t too,
    in place of the mean that the marginal velocity is: near it in many dimensions, where all errors are about as large,
    and far from it in few (with p = 1 farther still). Other solvers and bits/dim are of what it answers.
    """

    def target(self, ahead: "Ahead", x: Tensor, t: Tensor, s: Tensor, u: Tensor) -> Tensor:
        # The fused attention kernels have no forward-mode derivative; torch's formulas for others warn of torch's own.
        with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            moving = forward_ad.make_dual(x, u.to(x.dtype))
            time = forward_ad.make_dual(t, torch.ones_like(t))
            left = forward_ad.make_dual(s - t, -torch.ones_like(t))
            slope = forward_ad.unpack_dual(ahead(moving, time, left)).tangent
        return u + _column(s - t, x) * slope

    def weighted(self, loss: Tensor) -> Tensor:
        """The loss (batch,), whose gradient is that of twice its root where it is not small."""
        even = loss / (loss.detach() + SMALL_LOSS).sqrt()
        return even + (loss - even).detach()


SMALL_LOSS = 1e-3  # mean square of a dimension: below it, MeanFlow's weight grows no further
Ahead = Callable[[Tensor, Tensor, Tensor], Tensor]  # x, t and the time left of the jump -> mean velocity


def _ahead(model: Model, y: Tensor | None, cond: Tensor | None, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
    return _call(model, x, t, y, cond, h)


def _column(value: Tensor, like: Tensor) -> Tensor:
    return value.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def drop_labels(y: Tensor, u: Tensor, rate: float) -> Tensor:
    """Labels, those of a share `rate` removed by u (batch,) uniform on (0, 1): classifier-free training."""
    return torch.where(u.to(y.device) < rate, NO_LABEL, y)


def _call(model: Model, x: Tensor, t: Tensor, y: Tensor | None, cond: Tensor | None, h: Tensor | None = None) -> Tensor:
    for what, part in (("labels", y), ("conditions", cond)):
        if part is not None and len(part) != len(x):
            raise ValueUserError(f"{len(part)} {what} given for {len(x)} samples")
    given = x if cond is None else torch.cat([x, cond], dim=1)
    t = t.expand(len(x))
    told = {} if h is None else {"h": h.expand(len(x))}
    out = model(given, t, **told) if y is None else model(given, t, y, **told)
    if out.shape != x.shape:
        raise ValueUserError(f"the network answers shape {tuple(out.shape)} to {tuple(x.shape)}")
    return out


OBJECTIVES: dict[str, Callable[[AnyPath], Objective]] = {
    "flow_matching": FlowMatching,
    "mean_flow": MeanFlow,
    "noise_matching": NoiseMatching,
    "regression": Regression,
    "score_matching_raw": partial(ScoreMatching, output="raw"),
    "score_matching_scaled": partial(ScoreMatching, output="scaled"),
    "score_flow_raw": partial(ScoreFlow, output="raw"),
    "score_flow_scaled": partial(ScoreFlow, output="scaled"),
    "shortcut": Shortcut,
}


def objective(name: str) -> Callable[[AnyPath], Objective]:
    """The objective of that name, or at that import path, as a function of its path.

    Raises: SettingsError that names the nearest.
    """
    return plugins.member(name, OBJECTIVES, plugins.derived(Objective), "objective", "objective")

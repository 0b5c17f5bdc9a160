"""Gaussian paths from noise (t = 0) to data (t = 1): a member states its schedule, the base class derives the rest.

Which t and which pairs (z, x_1) are drawn is left to `times.py` and `couplings.py`; z is always unit noise.
Here and elsewhere equation, theorem and table numbers are those of Lipman et al. 2023 (arXiv 2210.02747).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import field
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Discriminator, Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from fm.errors import NumericalError, ValueUserError
from fm.plugins import OrPlugin
from fm.settings import CONFIG


class Schedule(NamedTuple):
    """a_t, sigma_t, their time derivatives, and a_dot_t / a_t in closed form (it stays finite where a_t underflows)."""

    a: Tensor
    sigma: Tensor
    a_dot: Tensor
    sigma_dot: Tensor
    a_ratio: Tensor


class PathSample(NamedTuple):
    """A point of the path and its conditional velocity, with what they were made from."""

    x_t: Tensor
    u_t: Tensor
    z: Tensor
    x_1: Tensor
    t: Tensor


class Path(ABC):
    """p_t(x | x_1) = N(a_t x_1, sigma_t^2 I), equation (10), with the flow x_t = a_t x_1 + sigma_t z, equation (11).

    Mixed over the data they are the marginal path, equation (6), and its velocity, equation (8): Theorem 1.
    In every method states are (batch, ...) floats and t is (batch,), or a single time, in [0, t_max], float32 or finer.
    t may stay on the CPU: then the range check makes no GPU wait.

    Raises: NumericalError for a t outside the range, with the sample; ValueUserError for shapes or dtypes that don't
    match.
    """

    kind: str
    t_max: ClassVar[float] = 1.0  # where the path, or training on it, ends

    @abstractmethod
    def schedule(self, t: Tensor) -> Schedule:
        """The schedule at t, elementwise and unchecked."""

    @property
    def source_std(self) -> float:
        """Standard deviation of x_0, the state at t = 0: x_0 ~ N(0, source_std^2 I)."""
        return 1.0

    def sample(self, z: Tensor, x_1: Tensor, t: Tensor) -> PathSample:
        """x_t = a_t x_1 + sigma_t z and its velocity u_t = a_dot_t x_1 + sigma_dot_t z, equations (11) and (13)."""
        s = self._at(t, x_1, z)
        return PathSample(s.a * x_1 + s.sigma * z, s.a_dot * x_1 + s.sigma_dot * z, z, x_1, t)

    def mean_std(self, x_1: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (like x_1) and standard deviation (broadcastable against it) of p_t(x | x_1)."""
        s = self._at(t, x_1)
        return s.a * x_1, s.sigma

    def conditional_velocity(self, x: Tensor, x_1: Tensor, t: Tensor) -> Tensor:
        """u_t(x | x_1) = (sigma_dot_t / sigma_t) (x - a_t x_1) + a_dot_t x_1 at any x, Theorem 3, equation (15)."""
        s = self._at(t, x, x_1, sigma_positive=True)
        return s.sigma_dot / s.sigma * (x - s.a * x_1) + s.a_dot * x_1

    def sample_source(self, z: Tensor) -> Tensor:
        """x_0 from unit noise."""
        return self.source_std * z

    def log_source(self, x_0: Tensor) -> Tensor:
        """log p_0(x_0) in nats, (batch,)."""
        unit = (x_0 / self.source_std).flatten(1)
        return -0.5 * (unit**2).sum(1) - unit.shape[1] * math.log(self.source_std * math.sqrt(2 * math.pi))

    # On the path (x_t, u_t) is a linear image of (x_1, z), so any one of velocity, score, noise and data gives the
    # others, for conditional values and for their posterior means alike.

    def velocity_from_noise(self, z: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Velocity whose noise (posterior mean of z) is given: equation (46) with score -z / sigma_t."""
        s = self._at(t, x_t, z, a_positive=True)
        return s.a_ratio * x_t + (s.sigma_dot - s.sigma * s.a_ratio) * z

    def velocity_from_score(self, score: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Probability-flow ODE: (a_dot/a) x + (sigma^2 a_dot/a - sigma sigma_dot) score; VP: (beta/2) (x + score).

        Equation (40) in noise-to-data time (Song, Sohl-Dickstein et al. 2021); equation (46) is this with the score's
        sign dropped.
        """
        s = self._at(t, x_t, score, a_positive=True)
        return s.a_ratio * x_t + _score_coefficient(s) * score

    def velocity_from_data(self, x_1: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Velocity whose data point (posterior mean of x_1) is given."""
        return self.conditional_velocity(x_t, x_1, t)

    def noise_from_velocity(self, u_t: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Posterior mean of z that belongs to a velocity."""
        s = self._at(t, x_t, u_t)
        return (s.a_dot * x_t - s.a * u_t) / (s.a_dot * s.sigma - s.a * s.sigma_dot)

    def data_from_velocity(self, u_t: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Posterior mean of x_1 that belongs to a velocity."""
        s = self._at(t, x_t, u_t)
        return (s.sigma * u_t - s.sigma_dot * x_t) / (s.a_dot * s.sigma - s.a * s.sigma_dot)

    def score_from_velocity(self, u_t: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Score of p_t that belongs to a velocity."""
        return self.score_from_noise(self.noise_from_velocity(u_t, x_t, t), t)

    def score_from_noise(self, z: Tensor, t: Tensor) -> Tensor:
        """The true score -z / sigma_t; equation (43) drops the minus."""
        return -z / self._at(t, z, sigma_positive=True).sigma

    def noise_from_score(self, score: Tensor, t: Tensor) -> Tensor:
        """-sigma_t score."""
        return -self._at(t, score).sigma * score

    def score_coefficient(self, t: Tensor, like: Tensor) -> Tensor:
        """The score's factor in the probability-flow ODE, half the squared diffusion: beta(1 - t)/2 for VP."""
        return _score_coefficient(self._at(t, like, a_positive=True))

    def sigma(self, t: Tensor, like: Tensor) -> Tensor:
        """sigma_t, broadcastable against `like`."""
        return self._at(t, like).sigma

    def _at(
        self, t: Tensor, x: Tensor, *others: Tensor, a_positive: bool = False, sigma_positive: bool = False
    ) -> Schedule:
        """The schedule at checked times, in x's dtype and broadcastable against it."""
        for other in (x, *others):
            if not other.is_floating_point():
                raise ValueUserError(
                    f"a tensor of dtype {other.dtype} given where floats are due",
                    mend="fm.pixels.to_unit makes floats of images",
                )
            if other.shape != x.shape:
                raise ValueUserError(f"shapes {tuple(x.shape)} and {tuple(other.shape)} given where equal ones are due")
        t = self._checked(torch.as_tensor(t), len(x), a_positive, sigma_positive)
        t = t.to(x.device, torch.promote_types(t.dtype, x.dtype), non_blocking=True).reshape(-1, *[1] * (x.ndim - 1))
        return Schedule(*[value.to(x.dtype) for value in self.schedule(t)])

    def _checked(self, t: Tensor, batch: int, a_positive: bool, sigma_positive: bool) -> Tensor:
        if t.dtype in (torch.bfloat16, torch.float16):
            raise ValueUserError(
                f"t of dtype {t.dtype}, which rounds times near the data to 1", mend="keep t in float32"
            )
        if t.shape not in ((), (batch,)):
            raise ValueUserError(f"t of shape {tuple(t.shape)} given where () or ({batch},) is due")
        end = torch.tensor(self.t_max, dtype=t.dtype)  # as t's own dtype rounds it
        bad = ~((t >= 0) & (t <= end))
        if a_positive:
            bad |= (t == 0) & (self.schedule(torch.zeros_like(t)).a == 0)
        if sigma_positive:
            bad |= (t == end) & (self.schedule(torch.full_like(t, self.t_max)).sigma == 0)
        if bad.any():
            sample = int(bad.reshape(-1).int().argmax())
            value = float(t.reshape(-1)[sample])
            inside = 0 <= value <= self.t_max
            what = "this conversion is singular there" if inside else f"outside [0, {self.t_max}]"
            raise NumericalError(f"t = {value:.9g} on the {self.kind} path: {what}", where=f"sample {sample}")
        return t


def _score_coefficient(s: Schedule) -> Tensor:
    return s.sigma**2 * s.a_ratio - s.sigma * s.sigma_dot


@dataclass(frozen=True, config=CONFIG)
class OTPath(Path):
    """Optimal-transport path, equation (20): a_t = t, sigma_t = 1 - (1 - sigma_min) t.

    Its flow, equation (22), is straight and of constant speed; its conditional velocity is equation (21).
    """

    sigma_min: float = Field(
        default=1e-4,
        ge=0,
        lt=1,
        title="sigma min",
        description="Standard deviation left around data at t = 1, in data units: 0 to 1.",
    )
    kind: Literal["ot"] = field(default="ot", kw_only=True)

    def schedule(self, t: Tensor) -> Schedule:
        one = torch.ones_like(t)
        sigma = (1 - t) + self.sigma_min * t  # 1 - (1 - sigma_min) t without its cancellation at t = 1
        return Schedule(t, sigma, one, (self.sigma_min - 1) * one, 1 / t)


@dataclass(frozen=True, config=CONFIG)
class VPPath(Path):
    """Variance-preserving diffusion path, equation (18), in noise-to-data time: a_t = exp(-T(r)/2), r = 1 - t.

    Its conditional velocity is equation (19); the rates are those of Song, Sohl-Dickstein et al. 2021. a_0 = 6.6e-3 at
    the defaults; the source is N(0, I) by convention, an error of about 2e-5 nats a dimension.
    """

    beta_min: float = Field(
        default=0.1,
        ge=0,
        le=10,
        title="beta min",
        description="Diffusion rate at the data end, per unit of time: 0 to 10.",
    )
    beta_max: float = Field(
        default=20.0,
        gt=0,
        le=100,
        title="beta max",
        description="Diffusion rate at the noise end, per unit of time: above 0, to 100.",
    )
    kind: Literal["vp"] = field(default="vp", kw_only=True)
    t_max: ClassVar[float] = 1 - 1e-5

    def schedule(self, t: Tensor) -> Schedule:
        r = 1 - t  # exact for t >= 1/2
        rate = self.beta_min + r * (self.beta_max - self.beta_min)
        exponent = self.beta_min * r + r**2 * (self.beta_max - self.beta_min) / 2
        a, sigma = torch.exp(-exponent / 2), torch.sqrt(-torch.expm1(-exponent))
        return Schedule(a, sigma, rate * a / 2, -rate * a**2 / (2 * sigma), rate / 2)


@dataclass(frozen=True, config=CONFIG)
class VEPath(Path):
    """Variance-exploding diffusion path, equation (16): a_t = 1, sigma_t = sigma_min sqrt(q^(2r) - 1), r = 1 - t.

    q = sigma_max / sigma_min; its conditional velocity is equation (17) (Song, Sohl-Dickstein et al. 2021). The source
    is not unit noise: its variance is sigma_max^2 - sigma_min^2.
    """

    sigma_min: float = Field(
        default=0.01, gt=0, le=1, title="sigma min", description="Smallest noise scale, in data units: above 0, to 1."
    )
    sigma_max: float = Field(
        default=50.0,
        gt=0,
        le=1000,
        title="sigma max",
        description="Largest noise scale, in data units: above sigma min, to 1000.",
    )
    kind: Literal["ve"] = field(default="ve", kw_only=True)
    t_max: ClassVar[float] = 1 - 1e-5

    @model_validator(mode="after")
    def _ordered(self) -> "VEPath":
        if self.sigma_max <= self.sigma_min:
            raise ValueError(f"sigma_max {self.sigma_max} is not above sigma_min {self.sigma_min}")
        return self

    @property
    def source_std(self) -> float:
        return math.sqrt(self.sigma_max**2 - self.sigma_min**2)

    def schedule(self, t: Tensor) -> Schedule:
        log_q = math.log(self.sigma_max / self.sigma_min)
        grown = torch.expm1(2 * (1 - t) * log_q)  # q^(2r) - 1
        sigma = self.sigma_min * torch.sqrt(grown)
        zero = torch.zeros_like(t)
        return Schedule(zero + 1, sigma, zero, -(self.sigma_min**2) * log_q * (grown + 1) / sigma, zero)


AnyPath = Annotated[OTPath | VPPath | VEPath, Discriminator("kind"), OrPlugin(Path)]

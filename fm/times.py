"""Laws of the training time t, as maps of a uniform u: drawing u, by position or stratified, is the caller's.

A law changes which t the network sees most, not what it should answer there: the minimiser stays the same.
"""

from abc import ABC, abstractmethod
from dataclasses import field
from typing import Annotated, Literal

import torch
from pydantic import Discriminator, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from fm.errors import SettingsError
from fm.plugins import OrPlugin
from fm.settings import CONFIG


class Times(ABC):
    """The law's quantile function on [0, 1], stretched to [0, t_max]."""

    kind: str

    @abstractmethod
    def quantile(self, u: Tensor) -> Tensor:
        """t in [0, 1] below which a share u of the law lies."""

    def at(self, u: Tensor, t_max: float) -> Tensor:
        """t in [0, t_max] of u's shape and dtype, for u uniform on (0, 1)."""
        return (t_max * self.quantile(u.double())).clamp(0.0, t_max).to(u.dtype)


@dataclass(frozen=True, config=CONFIG)
class Uniform(Times):
    """t uniform: the paper's law, equation (9)."""

    kind: Literal["uniform"] = field(default="uniform", kw_only=True)

    def quantile(self, u: Tensor) -> Tensor:
        return u


@dataclass(frozen=True, config=CONFIG)
class LogitNormal(Times):
    """log(t / (1 - t)) ~ N(mean, std^2): more weight in the middle (Esser et al. 2024, section 3.1)."""

    mean: float = Field(default=0.0, ge=-10, le=10, description="Mean of log(t / (1 - t)), without unit: -10 to 10.")
    std: float = Field(
        default=1.0, gt=0, le=10, description="Standard deviation of log(t / (1 - t)), without unit: above 0, to 10."
    )
    kind: Literal["logit_normal"] = field(default="logit_normal", kw_only=True)

    def quantile(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))


@dataclass(frozen=True, config=CONFIG)
class Skewed(Times):
    """EDM's noise levels read as times: log s ~ N(log_mean, log_std^2), t = 1 / (1 + s) (Karras et al. 2022, table 1).

    s = (1 - t)/t is the noise over the signal of the straight path, so most times fall close to the data.
    """

    log_mean: float = Field(
        default=-1.2,
        ge=-10,
        le=10,
        title="log mean",
        description="Mean of the log noise level, without unit: -10 to 10.",
    )
    log_std: float = Field(
        default=1.2,
        gt=0,
        le=10,
        title="log std",
        description="Standard deviation of the log noise level, without unit: above 0, to 10.",
    )
    kind: Literal["skewed"] = field(default="skewed", kw_only=True)

    def quantile(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.log_std * torch.special.ndtri(u) - self.log_mean)


def stratified(u: Tensor, positions: Tensor, batch_images: int) -> Tensor:
    """(position mod batch + u) / batch: uniform as before, but each GLOBAL batch has one u in each of its equal strata.

    The stratum follows from the stream position alone, so it is the same whatever the number of ranks.
    """
    if batch_images < 1:
        raise SettingsError(f"a batch of {batch_images} images", mend="give the global batch, 1 or more")
    stratum = (positions % batch_images).to(u.device, torch.float64)
    return ((stratum + u.double()) / batch_images).to(u.dtype).clamp(max=1 - 2.0**-24)


AnyTimes = Annotated[Uniform | LogitNormal | Skewed, Discriminator("kind"), OrPlugin(Times)]

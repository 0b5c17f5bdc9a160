"""Distributions of points in the plane with their exact log-densities, and the endless stream of points to train on.

A point follows from seed, stream and stream position alone (`fm.noise`). Every member has a spread of about one, like
the noise that flows to it, and lies inside the square of half-width EXTENT. Formulas are numpy in float64; torch is
imported inside functions, so that a question about names loads nothing heavy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from fm.data.batches import Batch
from fm.errors import ValueUserError, member
from fm.lineage import digest
from fm.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
EXTENT = 3.0


@dataclass(frozen=True)
class Distribution:
    """sample: uniforms (n, 2) and unit noise (n, 2) -> points (n, 2); log_density: points (n, 2) -> nats (n,)."""

    sample: Callable[[Floats, Floats], Floats]
    log_density: Callable[[Floats], Floats]


def checkerboard(u: Floats, z: Floats) -> Floats:
    """Uniform on the eight dark unit squares of a board of 4 by 4."""
    x, height = 4 * u[:, 0] - 2, 2 * u[:, 1]
    return np.stack([x, height + np.floor(height) + np.floor(x) % 2 - 2], 1)


def checkerboard_log_density(x: Floats) -> Floats:
    """-log 8 on the dark squares, minus infinity elsewhere."""
    dark = (np.floor(x).sum(1) % 2 == 0) & (np.abs(x) < 2).all(1)
    return np.where(dark, -math.log(8), -np.inf)


def _around(angle: Floats) -> Floats:
    return np.stack([np.cos(angle), np.sin(angle)], -1)


CENTRES, CLOUD = 1.5 * _around(np.arange(8) * math.pi / 4), 0.15


def eight_gaussians(u: Floats, z: Floats) -> Floats:
    """Eight Gaussians of standard deviation 0.15 on a circle of radius 1.5."""
    return CENTRES[(8 * u[:, 0]).astype(int)] + CLOUD * z


def eight_gaussians_log_density(x: Floats) -> Floats:
    return _mixture_log_density(x, CENTRES, np.full(8, 1 / 8), CLOUD)


BLUR = 0.1


def _moons(angle: Floats, lower: NDArray[np.bool_]) -> Floats:
    """Points at angles 0 to pi of the upper and the lower half circle of radius 1, centred together."""
    return np.where(lower[..., None], [1, 0.5] - _around(angle), _around(angle)) - [0.5, 0.25]


def two_moons(u: Floats, z: Floats) -> Floats:
    """Two interleaved half circles, blurred by a Gaussian of standard deviation 0.1."""
    return _moons(math.pi * u[:, 0], u[:, 1] < 0.5) + BLUR * z


def two_moons_log_density(x: Floats, nodes: int = 160) -> Floats:
    """The Gaussian's integral along both arcs by Gauss-Legendre quadrature: a mixture whose centres are the nodes."""
    place, weight = np.polynomial.legendre.leggauss(nodes)
    angle = np.tile(math.pi / 2 * (place + 1), 2)
    return _mixture_log_density(x, _moons(angle, np.arange(2 * nodes) < nodes), np.tile(weight / 4, 2), BLUR)


def _mixture_log_density(x: Floats, centres: Floats, weights: Floats, std: float) -> Floats:
    """log of sum_i w_i N(x; c_i, std^2 I), without underflow far away from all centres."""
    exponents = -((x[:, None] - centres) ** 2).sum(2) / (2 * std**2) + np.log(weights)
    largest = exponents.max(1)
    return largest + np.log(np.exp(exponents - largest[:, None]).sum(1)) - math.log(2 * math.pi * std**2)


class Points(Settings):
    """The data of a 2-D recipe: points of one distribution, as many as are asked for, none of them twice."""

    distribution: str = Field(title="Distribution", description="A name of fm.data.plane.DISTRIBUTIONS")
    seed: int = Field(0, ge=0, title="Seed", description="Of the points, 0 or more")

    @field_validator("distribution")
    @classmethod
    def _known(cls, name: str) -> str:
        member(name, DISTRIBUTIONS, "distribution")
        return name

    @property
    def shape(self) -> tuple[int]:
        return (2,)

    @property
    def digest(self) -> str:
        return digest("points", self)

    def at(self, positions: Tensor, split: str = "train") -> Tensor:
        """The points at these positions of a split's stream (any name), float32 (n, 2)."""
        import torch

        from fm import noise

        u = noise.uniforms(self.seed, f"points/{split}/u", positions, (2,))
        z = noise.draws(self.seed, f"points/{split}/z", positions, (2,))
        sample = DISTRIBUTIONS[self.distribution].sample
        return torch.from_numpy(sample(u.double().numpy(), z.double().numpy())).float()

    def log_density(self, x: Tensor) -> Tensor:
        """The true log-density at points (n, 2), in nats, float64 (n,).

        Raises: ValueUserError for another shape.
        """
        import torch

        if x.ndim != 2 or x.shape[1] != 2:
            raise ValueUserError(f"points of shape {tuple(x.shape)} given where (n, 2) is due")
        return torch.from_numpy(DISTRIBUTIONS[self.distribution].log_density(x.double().cpu().numpy()))

    def batches(self, batch: int, start: int = 0) -> Iterator[Batch]:
        """Batches of the endless stream from position `start` on; point i stands at position i."""
        import torch

        together = batch * max(1, 8192 // batch)  # many small draws would cost more than a small network's step
        while True:
            chunk = torch.arange(start, start + together)
            for points, positions in zip(self.at(chunk).split(batch), chunk.split(batch), strict=True):
                yield Batch(points, torch.full((batch,), -1), positions, positions)
            start += together


DISTRIBUTIONS: dict[str, Distribution] = {
    "checkerboard": Distribution(checkerboard, checkerboard_log_density),
    "eight_gaussians": Distribution(eight_gaussians, eight_gaussians_log_density),
    "two_moons": Distribution(two_moons, two_moons_log_density),
}


def chosen(names: Sequence[str], where: str = "") -> list[str]:
    """The named distributions, each once; "all" names them all.

    Raises: SettingsError for an unknown name.
    """
    for name in names:
        member(name, {**DISTRIBUTIONS, "all": None}, "distribution", where)
    return [*DISTRIBUTIONS] if "all" in names else list(dict.fromkeys(names))

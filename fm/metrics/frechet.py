"""Frechet distance: of given Gaussians, of features, and of features with its bias in the samples' count taken off."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fm.errors import ValueUserError
from fm.metrics.statistics import FeatureStatistics
from fm.noise import uniforms

PIECES = 4  # the samples are halved, ... quartered to see how the distance falls with their count


def frechet_distance(mu_1: Any, cov_1: Any, mu_2: Any, cov_2: Any) -> float:
    """|mu_1 - mu_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)) in float64 (Dowson and Landau 1982; Heusel et al. 2017).

    The trace of (C_1 C_2)^(1/2) is the sum of the square roots of the eigenvalues of R^T C_2 R where C_1 = R R^T: a
    symmetric problem and no imaginary part to drop. Arrays or tensors, (d,) and (d, d).
    """
    return distance_to(mu_1, cov_1)(mu_2, cov_2)


def distance_to(mu_1: Any, cov_1: Any) -> Callable[[Any, Any], float]:
    """`frechet_distance` from one Gaussian, whose root is taken once, to others."""
    mean_1, c_1 = (torch.as_tensor(a).to("cpu", torch.float64) for a in (mu_1, cov_1))
    root = _root(c_1)

    def distance(mu_2: Any, cov_2: Any) -> float:
        mean_2, c_2 = (torch.as_tensor(a).to("cpu", torch.float64) for a in (mu_2, cov_2))
        cross = torch.linalg.eigvalsh(root.T @ c_2 @ root).clamp(min=0).sqrt().sum()
        return float((mean_1 - mean_2).square().sum() + c_1.trace() + c_2.trace() - 2 * cross)

    return distance


def _root(covariance: Tensor) -> Tensor:
    """R with R R^T = C: Cholesky's, and by eigenvectors where C is singular, which takes eight times as long."""
    root, failed = torch.linalg.cholesky_ex(covariance)
    if not failed:
        return root
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt()


def fd(samples: Tensor, reference: Tensor) -> float:
    """Frechet distance of the Gaussians fitted to two (n, d) sets. Its bias is about 1/n: compare equal counts only.

    Where a set has at most d rows its covariance is singular: the value is then exact for the rows given, by the
    singular values of a matrix of their size, but says nothing of the directions that they do not span.

    Raises: ValueUserError below two rows.
    """
    if not (rank_deficient(samples) or rank_deficient(reference)):
        x, y = (FeatureStatistics.of(rows) for rows in (samples, reference))
        return frechet_distance(*x.mean_cov(), *y.mean_cov())
    (mean_1, root_1), (mean_2, root_2) = _mean_root(samples), _mean_root(reference)
    cross = torch.linalg.svdvals(root_1 @ root_2.T).sum()
    spread = root_1.square().sum() + root_2.square().sum()
    return float((mean_1 - mean_2).square().sum() + spread - 2 * cross)


def rank_deficient(features: Tensor) -> bool:
    """Whether the covariance of these (n, d) rows is singular because of their count alone."""
    return len(features) <= features.shape[1]


def _mean_root(features: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (d,) and a matrix A (min(n, d), d) with A^T A the covariance."""
    if not rank_deficient(features):
        mean, covariance = FeatureStatistics.of(features).mean_cov()
        return mean, _root(covariance).T
    if len(features) < 2:
        raise ValueUserError(f"a covariance of {len(features)} samples is not defined", mend="give at least 2")
    rows = features.to("cpu", torch.float64)
    mean = rows.mean(0)
    return mean, (rows - mean) / (len(rows) - 1) ** 0.5


class Extrapolated(NamedTuple):
    """A limit for endless samples and the standard error of the line it comes from."""

    value: float
    stderr: float


def fd_extrapolated(samples: Tensor, reference: Tensor, seed: int = 0) -> Extrapolated:
    """The Frechet distance where a line in 1/n meets 1/n = 0, FID-infinity (Chong and Forsyth 2020).

    The line goes through the distances of all samples, of both halves, of the three thirds and of the four quarters,
    in a seeded order, each weighted by its count; the pieces of a division share no sample. The bias that the
    reference's own count brings stays, and a quarter should have more rows than dimensions: below, the bias is no line.
    """
    order = uniforms(seed, "fd_infinity", torch.arange(len(samples)), ()).argsort(stable=True)
    pieces = [piece for parts in range(1, PIECES + 1) for piece in samples[order].tensor_split(parts)]
    counts = torch.tensor([len(piece) for piece in pieces], dtype=torch.float64)
    values = torch.tensor([fd(piece, reference) for piece in pieces], dtype=torch.float64)
    line = torch.stack([torch.ones_like(counts), 1 / counts], 1)
    normal = torch.linalg.inv(line.T @ (line * counts[:, None]))
    fit = normal @ line.T @ (counts * values)
    variance = (counts * (values - line @ fit).square()).sum() / (len(pieces) - 2) * normal[0, 0]
    return Extrapolated(float(fit[0]), float(variance.sqrt()))


def fd_infinity(samples: Tensor, reference: Tensor) -> float:
    """The value of `fd_extrapolated`."""
    return fd_extrapolated(samples, reference).value

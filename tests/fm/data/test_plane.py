import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from fm.data.plane import DISTRIBUTIONS, EXTENT, Points, chosen, two_moons_log_density
from fm.errors import SettingsError, ValueUserError

FAMILY = pytest.mark.parametrize("name", DISTRIBUTIONS)
CELLS = 24  # a side of the square, 0.25 wide


def cell_masses(name: str, per_cell: int = 12) -> np.ndarray:
    """The integral of the density over each cell by the midpoint rule."""
    count = CELLS * per_cell
    at = (np.arange(count) + 0.5) / count * 2 * EXTENT - EXTENT
    masses = []
    for column in at.reshape(CELLS, per_cell):
        x = np.stack(np.meshgrid(column, at, indexing="ij"), 2).reshape(-1, 2)
        density = np.exp(DISTRIBUTIONS[name].log_density(x)) * (2 * EXTENT / count) ** 2
        masses.append(density.reshape(per_cell, CELLS, per_cell).sum((0, 2)))
    return np.stack(masses)


@FAMILY
def test_density_integrates_to_one_and_samples_follow_it(name: str) -> None:
    masses = cell_masses(name)
    assert masses.sum() == pytest.approx(1, abs=1e-6)
    x = Points(distribution=name).at(torch.arange(40_000)).numpy()
    edges = np.linspace(-EXTENT, EXTENT, CELLS + 1)
    seen, _, _ = np.histogram2d(*x.T, bins=(edges, edges))
    assert seen.sum() == len(x)
    expected = masses / masses.sum() * len(x)
    rare = expected < 10  # pooled into one cell, as Pearson's test wants
    assert (seen[expected == 0] == 0).all()
    pooled = [(seen[~rare], expected[~rare]), (seen[rare].sum(keepdims=True), expected[rare].sum(keepdims=True))]
    statistic = sum((((s - e) ** 2) / np.maximum(e, 1e-9)).sum() for s, e in pooled)
    assert chi2.sf(statistic, (~rare).sum()) > 1e-4


@FAMILY
def test_spread_is_about_that_of_the_noise(name: str) -> None:
    x = Points(distribution=name).at(torch.arange(10_000))
    assert x.std(0).min() > 0.4 and x.std(0).max() < 1.3
    assert x.mean(0).abs().max() < 0.05


@FAMILY
def test_a_point_follows_from_its_position(name: str) -> None:
    points = Points(distribution=name)
    whole = points.at(torch.arange(100))
    assert torch.equal(points.at(torch.tensor([70, 3])), whole[[70, 3]])
    assert not torch.equal(points.at(torch.arange(100), "heldout"), whole)
    assert not torch.equal(Points(distribution=name, seed=1).at(torch.arange(100)), whole)
    for batch, start in ((30, 0), (7, 21)):
        taken = list(itertools.islice(points.batches(batch, start), 2))
        assert torch.equal(torch.cat([b.images for b in taken]), points.at(torch.arange(start, start + 2 * batch)))
        assert torch.cat([b.positions for b in taken]).tolist() == list(range(start, start + 2 * batch))


def test_densities_in_closed_form() -> None:
    board = Points(distribution="checkerboard")
    inside = torch.tensor([[0.5, 0.5], [-0.5, 0.5], [2.5, 0.5]])
    assert board.log_density(inside).tolist() == [-math.log(8), -math.inf, -math.inf]
    centre = torch.tensor([[1.5, 0.0]], dtype=torch.float64)
    nearest = -math.log(8) - math.log(2 * math.pi * 0.15**2)  # the other seven are 7 standard deviations away
    assert Points(distribution="eight_gaussians").log_density(centre).item() == pytest.approx(nearest, abs=1e-10)


def test_moons_quadrature_has_converged() -> None:
    x = np.concatenate([Points(distribution="two_moons").at(torch.arange(200)).double().numpy(), [[2.9, -2.9]]])
    assert two_moons_log_density(x) == pytest.approx(two_moons_log_density(x, nodes=320), rel=1e-10)


def test_wrong_names_and_shapes_are_one_sentence() -> None:
    assert chosen(["two_moons", "two_moons"]) == ["two_moons"]
    assert chosen(["two_moons", "all"]) == [*DISTRIBUTIONS]
    with pytest.raises(SettingsError, match="--data: unknown distribution 'moons'; did you mean 'two_moons'"):
        chosen(["moons"], where="--data")
    with pytest.raises(ValueUserError, match=r"\(3,\) given where \(n, 2\)"):
        Points(distribution="two_moons").log_density(torch.zeros(3))

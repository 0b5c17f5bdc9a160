import numpy as np
import pytest
import torch

from fm.errors import ValueUserError
from fm.metrics.sliced import DIRECTIONS, mind
from fm.noise import draws


def rows(seed: int, n: int, d: int = 6) -> torch.Tensor:
    return draws(seed, "rows", torch.arange(n), (d,))


@pytest.mark.parametrize("m", [40, 25, 60, 7])
def test_on_each_direction_it_is_the_wasserstein_distance_of_a_peer(m):
    """Of any two counts, against the quantiles of both at a common refinement."""
    x, y = rows(1, 40).double(), 1.5 * rows(2, m).double() + 1
    directions = torch.nn.functional.normalize(draws(0, "mind", torch.arange(DIRECTIONS), (6,)).double())
    a, b = (np.sort((z @ directions.T).numpy(), axis=0) for z in (x, y))
    fine = np.lcm(40, m)
    expected = ((np.repeat(a, fine // 40, 0) - np.repeat(b, fine // m, 0)) ** 2).mean()
    assert mind(x, y) == pytest.approx(3 * 6 * expected, rel=1e-6)


def test_a_shift_counts_three_times_its_square():
    x = rows(1, 50, d=64)
    assert mind(x, x) == 0
    assert mind(x, x + 0.5) == pytest.approx(3 * 64 * 0.25, rel=0.1)  # the directions are a sample of all


def test_between_gaussians_of_one_mean_it_is_the_closed_form():
    x, y = rows(1, 5000, d=8), 2 * rows(2, 5000, d=8)
    assert mind(x, y) == pytest.approx(3 * 8 * (2 - 1) ** 2, rel=0.03)


def test_it_is_seeded_and_needs_rows():
    x, y = rows(1, 30), rows(2, 30)
    assert mind(x, y) == mind(x, y) != mind(x, y, seed=1)
    with pytest.raises(ValueUserError, match="no samples"):
        mind(x, y[:0])

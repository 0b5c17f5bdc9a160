import numpy as np
import pytest
import torch

from fm.metrics import DISTANCES, energy_estimate, frechet_distance, jackknife
from fm.noise import draws


def rows(seed: int, n: int, d: int = 6) -> torch.Tensor:
    return draws(seed, "rows", torch.arange(n), (d,))


def test_frechet_between_diagonal_gaussians_is_the_closed_form():
    s_1, s_2, shift = np.array([1.0, 4, 0.25]), np.array([9.0, 1, 0]), np.array([1.0, -2, 0.5])
    exact = (shift**2).sum() + ((np.sqrt(s_1) - np.sqrt(s_2)) ** 2).sum()
    assert frechet_distance(np.zeros(3), np.diag(s_1), shift, np.diag(s_2)) == pytest.approx(exact, rel=1e-12)


def test_frechet_equals_the_matrix_square_root_of_scipy():
    from scipy.linalg import sqrtm

    a, b = (np.cov(rows(seed, 40).numpy().T.astype(float)) for seed in (1, 2))
    m = np.arange(6.0)
    peer = m @ m + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_distance(0 * m, a, m, b) == pytest.approx(peer, rel=1e-10)


def test_frechet_of_rank_deficient_covariances():
    flat = torch.cov(rows(1, 4, d=30).double().T)  # rank 3 of 30
    assert abs(frechet_distance(torch.zeros(30), flat, torch.zeros(30), flat)) < 1e-6 * flat.trace()


def test_kid_equals_its_definition():
    x, y = rows(1, 12).double(), rows(2, 9).double() + 0.5
    k = lambda a, b: ((a @ b) / 6 + 1) ** 3  # noqa: E731
    mean = lambda p, q, same: np.mean(  # noqa: E731
        [k(p[i], q[j]) for i in range(len(p)) for j in range(len(q)) if not (same and i == j)]
    )
    expected = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
    assert DISTANCES["kid"](x, y) == pytest.approx(expected, rel=1e-10)


def test_energy_equals_its_definition():
    x, y = rows(1, 12).double(), rows(2, 9).double() + 0.5
    mean = lambda p, q: torch.linalg.norm(p[:, None] - q[None], dim=2).mean()  # noqa: E731
    expected = 2 * mean(x, y) - mean(x, x) - mean(y, y)
    assert DISTANCES["energy"](x, y) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("name", DISTANCES)
def test_every_distance_grows_with_the_difference(name):
    reference = rows(0, 400)
    values = [DISTANCES[name](rows(1, 400) + shift, reference) for shift in (0, 0.5, 1, 2)]
    assert values == sorted(values)
    assert abs(values[0]) < 0.2


@pytest.mark.parametrize("name", DISTANCES)
def test_jackknife_interval_is_as_wide_as_the_spread_over_fresh_samples(name):
    reference = rows(0, 200)
    estimates = [jackknife(DISTANCES[name], rows(seed, 60) + 0.5, reference) for seed in range(1, 21)]
    spread = np.std([e.value for e in estimates], ddof=1)
    half = np.mean([(e.high - e.low) / 2 for e in estimates])
    assert 0.65 < half / (1.96 * spread) < 1.5
    assert all(e.low <= e.value <= e.high for e in estimates)


def test_energy_estimate_is_the_jackknife_of_energy():
    x, y = rows(1, 57), rows(2, 40) + 0.5
    assert energy_estimate(x, y) == pytest.approx(jackknife(DISTANCES["energy"], x, y), rel=1e-6)


def test_jackknife_repeats_itself():
    assert jackknife(DISTANCES["fd"], rows(1, 50), rows(2, 50)) == jackknife(DISTANCES["fd"], rows(1, 50), rows(2, 50))

import numpy as np
import pytest
import torch

from fm.errors import ValueUserError
from fm.metrics import FeatureStatistics, fd_extrapolated, frechet_distance
from fm.metrics.frechet import fd, fd_infinity, rank_deficient
from fm.noise import draws


def rows(seed: int, n: int, d: int = 6) -> torch.Tensor:
    return draws(seed, "rows", torch.arange(n), (d,))


def test_between_diagonal_gaussians_it_is_the_closed_form():
    s_1, s_2, shift = np.array([1.0, 4, 0.25]), np.array([9.0, 1, 0]), np.array([1.0, -2, 0.5])
    exact = (shift**2).sum() + ((np.sqrt(s_1) - np.sqrt(s_2)) ** 2).sum()
    for a, b in ((s_1, s_2), (s_2, s_1)):  # the second begins with a singular covariance
        assert frechet_distance(np.zeros(3), np.diag(a), shift, np.diag(b)) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("d", [6, 200])
def test_it_is_what_scipys_matrix_square_root_gives(d):
    from scipy.linalg import sqrtm

    a, b = (np.cov(rows(seed, 2 * d + 30, d).numpy().T.astype(float)) for seed in (1, 2))
    m = np.linspace(0, 1, d)
    peer = m @ m + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_distance(0 * m, a, m, b) == pytest.approx(peer, rel=1e-9)


def test_singular_covariances():
    flat = torch.cov(rows(1, 4, d=30).double().T)  # rank 3 of 30
    assert abs(frechet_distance(torch.zeros(30), flat, torch.zeros(30), flat)) < 1e-6 * flat.trace()


@pytest.mark.parametrize(("n", "m"), [(20, 25), (20, 500), (500, 20), (40, 41), (2, 2)])
def test_fewer_rows_than_dimensions_give_the_distance_of_the_same_covariances(n, m):
    x, y = rows(1, n, 40), 1.5 * rows(2, m, 40) + 0.5
    assert rank_deficient(x) or rank_deficient(y)
    by_matrices = frechet_distance(*FeatureStatistics.of(x).mean_cov(), *FeatureStatistics.of(y).mean_cov())
    assert fd(x, y) == pytest.approx(by_matrices, rel=1e-6)


def test_few_rows_have_no_distance_to_themselves_to_the_last_digits():
    x = rows(1, 20, 300)
    assert abs(fd(x, x)) < 1e-11 * x.square().sum()


def test_below_two_rows_it_is_not_defined():
    with pytest.raises(ValueUserError, match="covariance of 1 samples"):
        fd(rows(1, 1), rows(2, 20))


def test_extrapolation_takes_the_bias_off_and_knows_its_error():
    """Against the exact distance of the law to the reference's own Gaussian."""
    d, reference = 24, rows(0, 4000, 24)
    exact = frechet_distance(torch.zeros(d), torch.eye(d), *FeatureStatistics.of(reference).mean_cov())
    found = [fd_extrapolated(rows(seed, 600, d), reference) for seed in range(1, 13)]
    values, errors = np.array(found).T
    assert fd(rows(1, 600, d), reference) > 5 * exact
    assert abs(values.mean() - exact) < 3 * values.std(ddof=1) / 12**0.5 < 0.6 * exact
    assert 0.5 < errors.mean() / values.std(ddof=1) < 2.5


def test_extrapolation_is_seeded():
    x, y = rows(1, 200), rows(2, 200)
    assert fd_extrapolated(x, y, seed=3) == fd_extrapolated(x, y, seed=3) != fd_extrapolated(x, y, seed=4)
    assert fd_infinity(x, y) == fd_extrapolated(x, y).value

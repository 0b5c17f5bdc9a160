import math

import pytest
import torch

from fm.cells import Cell
from fm.columns import (
    distance_columns,
    distances_of,
    error_columns,
    inception_columns,
    likelihood_columns,
    value_columns,
    way_columns,
)
from fm.metrics import DISTANCES, fd_extrapolated
from fm.noise import draws
from fm.ways import TIMES, described

ALL = torch.ones(5, dtype=torch.bool)
CELL = Cell(solver="euler", nfe=2, nll_k=3)


def bits(moved: torch.Tensor, n: int = 20) -> dict[str, torch.Tensor]:
    bpd = 4 + torch.linspace(-1, 1, n)
    return {
        "bpd": bpd,
        "bpd_k1": bpd + 0.1,
        "finer": bpd + moved,
        "nfe": torch.full((n,), 9.0),
        "seconds": torch.ones(3),
    }


@pytest.mark.parametrize(
    ("moved", "converged"),
    [
        (torch.full((20,), 0.0009), True),
        (torch.full((20,), -0.0011), False),  # the mean moves
        (torch.tensor([0.02, -0.02] * 10), False),  # the mean stands still, the images do not
        (torch.tensor([0.002, -0.002] * 10), True),
        (torch.full((20,), math.nan), False),
    ],
)
def test_bits_count_if_neither_their_mean_nor_the_images_move(moved: torch.Tensor, converged: bool) -> None:
    row = likelihood_columns(CELL, bits(moved), {})
    assert row["nll_converged"] is converged and (row["bits_per_dim"] is not None) is converged
    assert row["nll_seconds"] == 3 and row["nll_k"] == 3 and row["nll_images"] == 20
    if converged:
        assert row["bits_per_dim"] == pytest.approx(4) and row["bits_per_dim_k1"] == pytest.approx(4.1)
        left = torch.arange(20) % 10 != 7
        assert row["bits_per_dim_without"][7] == pytest.approx(
            float((4 + torch.linspace(-1, 1, 20))[left].double().mean())
        )
    else:
        assert row["nll_unconverged"] == pytest.approx(4)


def test_few_images_have_no_groups_and_none_no_value() -> None:
    assert likelihood_columns(CELL, bits(torch.zeros(9), 9), {})["bits_per_dim_without"] is None
    assert likelihood_columns(CELL, {}, {})["nll_converged"] is None


def test_an_error_is_the_root_of_the_mean_square_of_the_samples_both_have() -> None:
    exact, off = torch.zeros(5, 3, 2, 2), torch.full((4, 3, 2, 2), 0.3)
    off[0] = 0.5
    row = error_columns(off, exact, ALL)
    assert (
        row["solution_error"] == pytest.approx((3 / 4 * 0.09 + 0.25 / 4) ** 0.5) and row["solution_error_images"] == 4
    )
    squares = torch.tensor([0.25, 0.09, 0.09, 0.09]).double()
    assert row["solution_error_stderr"] == pytest.approx(float(squares.std() / 2) / (2 * row["solution_error"]))
    without = error_columns(off, exact, torch.tensor([False, True, True, True, True]))
    assert without["solution_error"] == pytest.approx(0.3) and without["solution_error_images"] == 3
    assert error_columns(off[:0], exact, ALL) == {}
    assert error_columns(exact, exact, ALL)["solution_error"] == 0


def test_a_distance_has_the_floor_of_as_many_real_pictures_or_none() -> None:
    samples, heldout, real = (draws(seed, "rows", torch.arange(60), (4,)) for seed in (1, 2, 3))
    for name in DISTANCES:
        value, floor = distances_of([name], samples[:50], heldout, real)[name]
        assert floor == pytest.approx(DISTANCES[name](real[:50], heldout), rel=1e-12)
        assert value.value == pytest.approx(DISTANCES[name](samples[:50], heldout), rel=1e-9)
    assert distances_of(["fd"], samples, heldout, real[:59])["fd"][1] is None


def test_the_limit_of_endless_samples_comes_with_the_error_of_its_line() -> None:
    samples, heldout, real = (draws(seed, "rows", torch.arange(60), (4,)) for seed in (1, 2, 3))
    row = distance_columns(("fd", "fd_infinity"), "x", samples, heldout, real)
    fitted = fd_extrapolated(samples, heldout)
    assert (row["fd_infinity_x"], row["fd_infinity_x_stderr"]) == pytest.approx((fitted.value, fitted.stderr))
    assert row["fd_x_ratio"] == row["fd_x"] / row["fd_x_floor"] and len(row["fd_x_without"]) == 10


def test_the_inception_score_wants_ten_samples() -> None:
    assert inception_columns(torch.eye(9)) == inception_columns(None) == {}
    found = inception_columns(torch.eye(5).repeat(20, 1))
    assert (found["inception_score"], found["inception_score_sd"]) == pytest.approx((5, 0), abs=1e-9)


def test_the_values_of_samples_tell_whether_they_can_be_pictures() -> None:
    x = torch.tensor([[-0.5, 0.5, 0.5, -0.5], [3.0, -1.0, 1.0, 0.0]]).double()
    outside = ((x < -1) | (x >= 1)).double().mean(1)
    row = value_columns(x.mean(1), x.square().mean(1), outside)
    assert row["samples_sd"] == pytest.approx(float(x.std(correction=0)))
    assert row["samples_outside"] == 2 / 8


def test_k_1_and_a_probe_for_each_draw_have_their_errors_and_groups() -> None:
    bpd = torch.linspace(3, 4, 20).double()
    found = {"bpd": bpd, "bpd_k1": bpd + 0.1, "per_draw": bpd - 0.1, "finer": bpd}
    found |= {"nfe": torch.ones(20), "seconds": torch.zeros(1)}
    row = likelihood_columns(Cell(solver="rk4", nfe=4, nll_images=20), found, {})
    for name, shift in (("k1", 0.1), ("per_draw", -0.1)):
        assert row[f"bits_per_dim_{name}"] == pytest.approx(row["bits_per_dim"] + shift)
        assert row[f"bits_per_dim_{name}_stderr"] == pytest.approx(row["bits_per_dim_stderr"])
        assert row[f"bits_per_dim_{name}_without"] == pytest.approx([w + shift for w in row["bits_per_dim_without"]])


def test_ways_have_standard_errors_and_groups() -> None:
    x_0, x_1 = (draws(seed, "ends", torch.arange(20), (64,)) for seed in (0, 1))
    at = torch.tensor(TIMES).view(-1, 1, 1)
    row = way_columns(described((1 - at) * x_0 + at * x_1))
    assert row["way_detour"] == pytest.approx(1) and row["way_detour_stderr"] < 1e-6
    assert row["way_appears_without"] is not None and len(row["way_appears_without"]) == 10
    assert way_columns(described((1 - at) * x_0[:1] + at * x_1[:1]))["way_bend_stderr"] is None
    still = way_columns(described(x_0.expand(len(TIMES), -1, -1)))
    assert still["way_bend"] is None and still["way_detour"] is None and still["way_bend_without"] is None

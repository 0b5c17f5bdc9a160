import pytest
import torch

from fm.ways import ALIKE, TIMES, described

T = torch.tensor(TIMES).view(-1, 1, 1)


def ends(n=5, d=64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=generator), torch.randn(n, d, generator=generator)


def test_a_straight_line_at_constant_speed_has_no_bend_no_detour_and_never_turns_back():
    x_0, x_1 = ends()
    found = described((1 - T) * x_0 + T * x_1)
    assert found["bend"].abs().max() < 1e-9 and found["backtracking"].abs().max() < 1e-6
    assert found["detour"] == pytest.approx(torch.ones(5), abs=1e-6)


def test_another_speed_on_the_same_line_bends_but_is_no_detour():
    x_0, x_1 = ends()
    found = described((1 - T**2) * x_0 + T**2 * x_1)
    # integral of (2 t - 1)^2 = 1/3, by the midpoints of 32 steps
    assert found["bend"] == pytest.approx(torch.full((5,), 1 / 3), abs=1e-3)
    assert found["detour"] == pytest.approx(torch.ones(5), abs=1e-6)


def test_what_overshoots_its_end_turns_back():
    x_0, x_1 = ends()
    over = torch.where(T <= 0.75, 2 * T, 1.5 - 2 * (T - 0.75))  # to one and a half of the way, then back
    found = described(x_0 + over * (x_1 - x_0))
    assert found["backtracking"] == pytest.approx(torch.full((5,), 0.5), abs=1e-6)
    assert found["detour"] == pytest.approx(torch.full((5,), 2.0), abs=1e-6)


def test_a_half_circle_is_a_detour_by_half_pi():
    angle = torch.pi * T
    circle = torch.cat([angle.cos(), angle.sin()], dim=2)
    assert described(circle)["detour"].item() == pytest.approx(torch.pi / 2, rel=2e-3)


def test_a_picture_appears_where_it_correlates_with_its_end():
    x_0, x_1 = ends(200, 3072)
    found = described((1 - T) * x_0 + T * x_1)["appears"]
    due = ALIKE / (1 - ALIKE**2) ** 0.5  # t / (1 - t), for independent ends of equal spread
    assert found.mean().item() == pytest.approx(due / (1 + due), abs=1 / 32)
    late = torch.where(T < 0.75, x_0, x_1)
    assert set(described(late)["appears"].tolist()) == {0.75}

import math

import pytest
import torch

from fm.metrics.trajectories import backtracking, overshoot, straightness, turning


def test_straight_line_is_one_and_half_circle_is_half_pi():
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)
    line = torch.stack([3 * t**2, -(t**2)], 1)
    arc = torch.stack([(math.pi * t).cos(), (math.pi * t).sin()], 1)
    states = torch.stack([line, arc], 1)
    assert straightness(states).tolist() == pytest.approx([1, math.pi / 2], abs=1e-5)
    assert backtracking(states).tolist() == [0, 0]
    assert overshoot(states).tolist() == [0, 0]


def test_a_path_that_passes_its_end_and_comes_back():
    x = torch.tensor([0, 1, 2, 3, 2.0])  # one of four steps leads away from the end, half a chord past it
    states = torch.stack([x, 0 * x], 1)[:, None]
    assert straightness(states).item() == 2
    assert backtracking(states).item() == 0.25
    assert overshoot(states).item() == 0.5


def test_turning_is_the_angle_from_the_first_time():
    angles = torch.tensor([0.0, 30.0, 170.0])
    fields = torch.stack([torch.deg2rad(angles).cos(), torch.deg2rad(angles).sin()], 1)[:, None] * 7
    assert turning(fields).tolist() == pytest.approx(angles.tolist(), abs=0.05)

"""Jumps by a network's mean velocities: exact where these are, one call each, and refused where there are none."""

import pytest
import torch
from torch import Tensor

from fm.errors import NumericalError, SettingsError
from fm.objectives import FlowMatching, Shortcut
from fm.paths import OTPath
from fm.solvers import solve
from tests.problems import randn


def mean(x: Tensor, t: Tensor, y: Tensor | None = None, h: Tensor | None = None) -> Tensor:
    """Of dx/dt = x: the mean over the way is x (e^h - 1) / h."""
    if h is None:
        return x
    return x * (torch.expm1(h) / h)[:, None]


@pytest.mark.parametrize("nfe", [1, 2, 7])
def test_each_step_is_one_call_and_exact(nfe: int) -> None:
    calls = []

    def counted(x: Tensor, t: Tensor, y: Tensor | None = None, h: Tensor | None = None) -> Tensor:
        calls.append(len(x))
        return mean(x, t, y, h)

    x = randn(3, 2)
    found = solve(Shortcut(OTPath()).velocity(counted), x, "jump", nfe=nfe)
    assert found.nfe == nfe == len(calls) and found.t == 1.0
    torch.testing.assert_close(found.x, x * torch.e)
    uneven = solve(Shortcut(OTPath()).velocity(mean), x, "jump", nfe=nfe, grid="edm")
    torch.testing.assert_close(uneven.x, x * torch.e)


def test_what_is_not_finite_says_when() -> None:
    def broken(x: Tensor, t: Tensor, y: Tensor | None = None, h: Tensor | None = None) -> Tensor:
        return torch.where(t[:, None] > 0.4, torch.nan, x)

    with pytest.raises(NumericalError, match=r"not finite at t = 0\.5"):
        solve(Shortcut(OTPath()).velocity(broken), randn(2, 2), "jump", nfe=4)


def test_jumps_are_refused_where_the_network_has_none() -> None:
    x = randn(2, 2)
    with pytest.raises(SettingsError, match=r"predicts no mean velocity to jump by.*mean_flow"):
        solve(FlowMatching(OTPath()).velocity(mean), x, "jump", nfe=1)
    with pytest.raises(SettingsError, match="no mean to jump by"):
        solve(lambda x, t: x, x, "jump", nfe=1)
    velocity = Shortcut(OTPath()).velocity(mean)
    with pytest.raises(SettingsError, match="only carry a state from noise to data"):
        solve(velocity, x, "jump", nfe=1, t_span=(1.0, 0.0))
    with pytest.raises(SettingsError, match="no states between them"):
        solve(velocity, x, "jump", nfe=1, at=(0.5,))
    guided = Shortcut(OTPath()).velocity(mean, y=torch.tensor([0, 1]), guidance=1.0)
    with pytest.raises(SettingsError, match="not guided"):
        guided.jump(x, torch.zeros(2), torch.ones(2))

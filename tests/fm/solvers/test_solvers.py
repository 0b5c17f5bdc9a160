import math

import pytest
import torch

from fm.errors import NumericalError, SettingsError
from fm.objectives import FlowMatching
from fm.paths import Path
from fm.solvers import solve
from tests.problems import PATHS, by_kind, randn


@pytest.mark.parametrize("path", PATHS, ids=by_kind)
def test_a_span_stays_within_the_times_of_the_path_and_fills_them_by_default(path: Path) -> None:
    velocity = FlowMatching(path).velocity(lambda x, t, y=None: torch.zeros_like(x))
    assert solve(velocity, randn(2, 2), method="midpoint", nfe=4).t == path.t_max
    for span in [(0.0, 1.5), (-1.0, 1.0), (0.0, math.nan), (math.inf, 0.0)]:
        with pytest.raises(NumericalError, match=r"t_span: t = .* is outside"):
            solve(velocity, randn(2, 2), t_span=span)


def test_the_start_is_finite_and_a_budget_is_a_whole_number() -> None:
    x_0 = randn(3, 2)
    x_0[2, 1] = math.nan
    with pytest.raises(NumericalError, match="sample 2: the state to start from is not finite"):
        solve(lambda x, t: torch.ones_like(x), x_0)
    with pytest.raises(SettingsError, match=r"nfe: 4\.0 is no whole number"):
        solve(lambda x, t: x, randn(3, 2), method="euler", nfe=4.0)

"""The multistep stepper: two-step extrapolation of the data prediction in log-SNR, one evaluation a step."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch

from fm.errors import SettingsError
from fm.paths import Path
from fm.solvers.field import Field, Solution


def multistep(field: Field, path: Path | None, grid: list[float], at: Sequence[float]) -> Solution:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2) on any path, from noise to data.

    With l = log(a/sigma) a step leads to x sigma_1/sigma_0 + (a_1 - a_0 sigma_1/sigma_0) D, where D extrapolates the
    last two predictions of x_1 linearly in l; the first and the last step, and one of infinite l, are of first order.
    """
    if path is None:
        raise SettingsError("this solver works on a path's data predictions", where="method", mend="give path")
    if not field.single or grid[0] > grid[-1]:
        raise SettingsError(
            "this solver only carries a state from noise to data", where="method", mend="choose a Runge-Kutta method"
        )
    if at:
        raise SettingsError("this solver has no states between its steps", where="at", mend="choose another method")
    (x,), before, h_before = field.state, None, math.inf
    for i, (t_0, t_1) in enumerate(pairwise(grid)):
        t = torch.tensor(t_0, dtype=torch.float64)
        (velocity,) = field((x,), t)
        data = path.data_from_velocity(velocity, x, t)
        s_0, s_1 = (path.schedule(torch.tensor(t, dtype=torch.float64)) for t in (t_0, t_1))
        h = float((s_1.a / s_1.sigma).log() - (s_0.a / s_0.sigma).log())
        guess = data if before is None or i == len(grid) - 2 else data + _ahead(h, h_before) * (data - before)
        shrink = s_1.sigma / s_0.sigma
        x = float(shrink) * x + float(s_1.a - s_0.a * shrink) * guess
        before, h_before = data, h
    field.check()
    return Solution(x, int(field.nfe.max()), field.nfe, grid[-1])


def _ahead(h: float, h_before: float) -> float:
    """Weight of the last difference for the middle of the step."""
    return h / (2 * h_before) if math.isfinite(h) else 0.0

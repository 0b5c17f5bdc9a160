"""The stepper of networks that predict mean velocities: one evaluation leads from each time of the grid to the next."""

from collections.abc import Sequence
from itertools import pairwise

import torch

from fm.errors import SettingsError
from fm.solvers.field import Field, Solution


def jumping(field: Field, grid: list[float], at: Sequence[float]) -> Solution:
    """x_s = x_t + (s - t) u(x_t, t, s) from noise to data (Geng et al. 2025).

    Raises: SettingsError for a velocity without `jump`, the way back, and states between the steps.
    """
    if not hasattr(field.velocity, "jump"):
        raise SettingsError("this velocity has no mean to jump by", "method", "choose another solver")
    if not field.single or grid[0] > grid[-1]:
        mend = "choose a Runge-Kutta method"
        raise SettingsError("jumps only carry a state from noise to data", "method", mend)
    if at:
        raise SettingsError("jumps have no states between them", "at", "choose another method")
    (x,) = field.state
    for t, s in pairwise(torch.tensor(grid, dtype=torch.float64)):
        (mean,) = field((x,), t, s)
        x = x + float(s - t) * mean
    field.check()
    return Solution(x, int(field.nfe.max()), field.nfe, grid[-1])

"""The fixed-step stepper: a budget of network calls becomes steps on a grid, and is met exactly or refused."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from fm.errors import SettingsError
from fm.solvers.field import Field, Solution, State, Velocity, calls_at, stage_times, step
from fm.tableaux import Tableau, tableau


def steps(method: str, nfe: int | None, cost: int = 1) -> int:
    """How many steps of a fixed-step method make `nfe` network calls, at `cost` calls an evaluation.

    Raises: SettingsError that names the nearest budgets the method can meet.
    """
    each = tableau(method).stages * cost
    if nfe is not None and not isinstance(nfe, int):
        raise SettingsError(f"{nfe!r} is no whole number of evaluations", where="nfe")
    if nfe is None:
        raise SettingsError(f"{method} needs a number of evaluations", where="nfe", mend=f"give a multiple of {each}")
    if nfe < each or nfe % each:
        below = nfe // each * each
        can = f"{below} or {below + each}" if below > 0 else f"{each}"
        what = f"{method} makes {each} network calls a step and cannot make {nfe}"
        raise SettingsError(what, where="nfe", mend=f"the nearest is {can}")
    return nfe // each


def grid_for(
    method: str, nfe: int | None, velocity: Velocity, dtype: torch.dtype, grid: Callable[[int], list[float]]
) -> list[float]:
    """The grid on which the method makes exactly `nfe` network calls, where these may cost more at some times.

    Raises: SettingsError that names the nearest budgets.
    """
    solver = tableau(method)
    first, *_, last = grid(1)
    cost = calls_at(velocity, torch.linspace(first, last, 1001, dtype=torch.float64))
    if nfe is None or cost.min() == cost.max():
        return grid(steps(method, nfe, int(cost.max())))

    def calls(times: list[float]) -> int:
        ends = torch.tensor(times, dtype=torch.float64)
        t, t_1 = ends[:-1], ends[1:]
        stages = stage_times(solver, t, t_1, t_1 - t, dtype) if isinstance(solver, Tableau) else [t]
        return sum(int(calls_at(velocity, at).sum()) for at in stages)

    made = {calls(grid(count)): count for count in range(1, max(nfe, solver.stages) // solver.stages + 1)}
    if nfe not in made:
        near = sorted(made, key=lambda budget: abs(budget - nfe))[:2]
        what = f"{method} cannot make {nfe} network calls with a velocity that costs more at some times"
        raise SettingsError(what, where="nfe", mend=f"the nearest is {' or '.join(map(str, sorted(near)))}")
    return grid(made[nfe])


def fixed(field: Field, solver: Tableau, grid: list[float], at: Sequence[float]) -> Solution:
    """One step between each two neighbours of the grid; states at the asked times by a parabola inside their step."""
    y, saved = field.state, {t: field.outer(field.state) for t in at if t == grid[0]}
    for t_0, t_1 in pairwise(grid):
        ends = torch.tensor([t_0, t_1], dtype=torch.float64)
        y_1, slopes = step(field, solver, y, ends[0], ends[1], ends[1] - ends[0])
        for t in at:
            if min(t_0, t_1) <= t <= max(t_0, t_1) and t != t_0:
                saved[t] = field.outer(_parabola(y, slopes[0], y_1, t_1 - t_0, (t - t_0) / (t_1 - t_0)))
        y = y_1
    field.check()
    return Solution(field.outer(y), int(field.nfe.max()), field.nfe, grid[-1], tuple(saved[t] for t in at))


def _parabola(y: State, slope: State, y_1: State, h: float, theta: float) -> State:
    """Through both ends with the slope at the first: as exact as the evaluations at hand allow."""
    if theta == 1:
        return y_1
    first = (p + theta * (h * k) for p, k in zip(y, slope, strict=True))
    bend = (q - p - h * k for p, k, q in zip(y, slope, y_1, strict=True))
    return tuple(line + theta**2 * extra for line, extra in zip(first, bend, strict=True))

"""Time grids chosen for one network: for any number of steps the one with the least sum of errors of its steps.

The errors come from one fine solve: what a step of the solver would miss between two of its times, if it started where
the fine solve stands and saw the velocities along it. Errors inside a step's own stages, and how a miss grows
afterwards, are left out; for Euler and DPM-Solver++ each entry is exact.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path as File

import torch
from torch import Tensor

from fm.errors import DataError, SettingsError
from fm.paths import Path
from fm.solvers import Velocity, solve
from fm.solvers.grids import Grid, uniform
from fm.tableaux import SOLVERS, Multistep, Tableau

OPTIMISED = "optimised"
FINE = 64  # steps of the fine solve that a grid's times are chosen from
TOLERANCE = 1e-4  # of the fine solve
Errors = Mapping[str, Tensor]  # by solver (FINE + 1, FINE + 1): of a step from time i to time j > i


def laid_out() -> list[str]:
    """The solvers that a grid can be chosen for."""
    return [name for name, solver in SOLVERS.items() if isinstance(solver, Tableau | Multistep) and not solver.error]


def step_errors(velocity: Velocity, x_0: Tensor, path: Path) -> dict[str, Tensor]:
    """The errors of each solver's steps, root mean square over dimensions, mean over samples, for noises x_0 (n, ...).

    Takes a dopri5 solve at `TOLERANCE` and 2 `FINE` + 1 evaluations of each sample.
    """
    count = 2 * FINE  # twice as many as times to choose from: a step's middle is a time too
    times = torch.arange(count + 1, dtype=torch.float64) * path.t_max / count
    times[-1] = path.t_max
    exact = {"rtol": TOLERANCE, "atol": TOLERANCE, "control": "per_sample", "path": path}
    with torch.no_grad():
        x = torch.stack(solve(velocity, x_0, "dopri5", at=times.tolist(), t_span=(0.0, path.t_max), **exact).at)  # type: ignore[arg-type]
        u = torch.stack([velocity(state, t.to(state.device, state.dtype)) for state, t in zip(x, times, strict=True)])
    found = {}
    for name in laid_out():
        solver, errors = SOLVERS[name], torch.full((FINE + 1, FINE + 1), torch.inf, dtype=torch.float64)
        ahead = partial(_runge_kutta, solver) if isinstance(solver, Tableau) else partial(_multistep, path)
        for i in range(FINE):
            for j in range(i + 1, FINE + 1):
                missed = ahead(x, u, times, 2 * i, 2 * j) - x[2 * j]
                errors[i, j] = missed.flatten(1).double().square().mean(1).sqrt().mean()
        found[name] = errors.float()
    return found


def _runge_kutta(solver: Tableau, x: Tensor, u: Tensor, times: Tensor, i: int, j: int) -> Tensor:
    """One step by the solver's weights, of velocities along the fine solve."""
    slope = torch.zeros_like(x[i])
    for c, b in zip(solver.c, solver.b, strict=True):
        place = i + float(c) * (j - i)
        low, part = int(place), place - int(place)
        slope += float(b) * (u[low] if not part else torch.lerp(u[low], u[low + 1], part))
    return x[i] + float(times[j] - times[i]) * slope


def _multistep(path: Path, x: Tensor, u: Tensor, times: Tensor, i: int, j: int) -> Tensor:
    """Its first step, which holds the prediction of the data."""
    s_0, s_1 = path.schedule(times[i]), path.schedule(times[j])
    shrink = float(s_1.sigma / s_0.sigma)
    return shrink * x[i] + (float(s_1.a) - float(s_0.a) * shrink) * path.data_from_velocity(u[i], x[i], times[i])


def fewest_errors(errors: Tensor, steps: int) -> list[int]:
    """The places of the grid of so many steps, from 0 to the last one, whose errors (places, places) sum to least.

    Dynamic programming: the best way to each place in k steps follows from the best ways in k - 1.
    """
    last = len(errors) - 1
    cost = torch.full((last + 1,), torch.inf, dtype=torch.float64)
    cost[0] = 0
    before = []
    for _ in range(steps):
        cost, came = (cost[:, None] + errors.double()).min(0)
        before.append(came)
    places = [last]
    for came in reversed(before):
        places.append(int(came[places[-1]]))
    return places[::-1]


def grid_of(errors: Tensor) -> Grid:
    """The grid that a solver with these errors is run on, in both directions; of `FINE` steps or more a uniform one."""

    def chosen(path: Path | None, start: float, end: float, count: int) -> list[float]:
        if path is None or {start, end} != {0.0, path.t_max}:
            raise SettingsError("an optimised grid leads from noise to data or back", "grid", "choose uniform")
        if count >= FINE:
            return uniform(path, start, end, count)
        times = [path.t_max * place / FINE for place in fewest_errors(errors, count)]
        times[-1] = path.t_max
        return times if start < end else times[::-1]

    return chosen


def grids_file(run: File, weights: str) -> File:
    """Where a RUN keeps the errors that grids for these weights (SHA-256) are chosen from."""
    return run / "grids" / f"{weights[:16]}.safetensors"


def kept_grids(run: File, weights: str) -> dict[str, Tensor]:
    """The errors by solver that RUN keeps for these weights; none if nobody measured them.

    Raises: DataError if the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = grids_file(run, weights)
    if not file.exists():
        return {}
    try:
        return load_file(file)
    except SafetensorError:
        raise DataError("is damaged", str(file), "delete it; `fm evaluate --grids optimised` makes it anew") from None

"""Ordinary differential equations dx/dt = velocity(x, t): a method is a tableau, run by one of two steppers.

Times are float64 inside and travel in either direction; states are tensors or tuples of tensors, batch first. NFE
counts the network calls of one sample; a velocity that makes several per evaluation says so by `network_calls()`.
"""

import math
from collections.abc import Sequence
from typing import Any

from fm.errors import NumericalError, SettingsError, member
from fm.paths import Path
from fm.solvers.adaptive import Adaptive
from fm.solvers.field import Field, Solution, Velocity
from fm.solvers.fixed import fixed, grid_for, steps
from fm.solvers.grids import GRIDS, Grid
from fm.solvers.jumping import jumping
from fm.solvers.multistep import multistep
from fm.tableaux import SOLVERS, Jumps, Multistep, Tableau, tableau

__all__ = [
    "CONTROLS",
    "GRIDS",
    "SOLVERS",
    "Jumps",
    "Multistep",
    "Solution",
    "Tableau",
    "Velocity",
    "grid_for",
    "solve",
    "steps",
]

CONTROLS = {"joint": False, "per_sample": True}


def solve(
    velocity: Velocity,
    x_0: Any,
    method: str = "dopri5",
    nfe: int | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    t_span: tuple[float, float] | None = None,
    at: Sequence[float] = (),
    control: str = "joint",
    max_nfe: int = 10_000,
    grid: str | Grid | None = None,
    path: Path | None = None,
) -> Solution:
    """The state at the end of t_span (backward too), equation (1); the velocity is given t (), or (batch,) per sample.

    t_span is (0, 1) by default, or up to the path's t_max where the path is known, and does not leave [0, t_max] then.
    Fixed-step methods take `nfe`, the exact number of network calls, and a `grid`, a name or a function as in `grids`,
    by default uniform in t; "dpm2m" and the other grids need the path (a velocity of fm.objectives brings it along),
    "jump" a network that predicts mean velocities. dopri5 takes rtol and atol; under `control` "joint" the batch shares
    its steps by torchdiffeq's error norm and with its NFE; under "per_sample" each sample has its own and leaves the
    batch when done (a velocity bound to samples offers `rows(mask)`). `max_nfe` ends an adaptive solve early, which
    `stopped` then says. `at`: times whose states are wanted too. Gradients flow through.

    Raises: SettingsError for an unknown method, a budget it cannot meet, or another method's options; ValueUserError
    for shapes and dtypes; NumericalError for NaN or infinity (which sample, which t) or a vanishing step.
    """
    solver = tableau(method)
    path = path or getattr(velocity, "path", None)
    start, end = _span(t_span, path)
    field = Field(velocity, x_0)
    for t in at:
        if not min(start, end) <= t <= max(start, end):
            raise SettingsError(f"time {t} is outside the span from {start} to {end}", where="at")
    if not isinstance(solver, Tableau) or not solver.error:
        layout = grid if callable(grid) else member(grid or solver.grid, GRIDS, "time grid", where="grid")
        times = grid_for(method, nfe, velocity, field.time_dtype, lambda count: layout(path, start, end, count))
        if isinstance(solver, Multistep):
            return multistep(field, path, times, at)
        if isinstance(solver, Jumps):
            return jumping(field, times, at)
        found = fixed(field, solver, times, at)
        if found.nfe != nfe:  # a stretch of dearer times, so short that counting ahead overlooked it
            what = f"{method} made {found.nfe} network calls, not {nfe}"
            raise SettingsError(what, where="nfe", mend="widen the interval of guidance")
        return found
    if grid is not None:
        raise SettingsError(f"{method} chooses its own steps", where="grid", mend="leave grid out")
    if nfe is not None:
        raise SettingsError(f"{method} chooses its own number of evaluations", where="nfe", mend="give rtol and atol")
    if not (rtol >= 0 and atol >= 0 and rtol + atol > 0):
        raise SettingsError(f"tolerances {rtol} and {atol}", where="rtol, atol", mend="give positive ones")
    per_sample = member(control, CONTROLS, "control", where="control")
    return Adaptive(field, solver, (rtol, atol), (start, end), at, per_sample).run(max_nfe)


def _span(t_span: tuple[float, float] | None, path: Path | None) -> tuple[float, float]:
    t_max = path.t_max if path else math.inf
    start, end = t_span or (0.0, path.t_max if path else 1.0)
    for t in (start, end):
        if not math.isfinite(t) or (path and not 0 <= t <= t_max):
            inside = f"[0, {t_max}] of the {path.kind} path" if path else "the finite times"
            raise NumericalError(f"t = {t} is outside {inside}", where="t_span")
    return float(start), float(end)

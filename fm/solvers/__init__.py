"""Ordinary differential equations dx/dt = velocity(x, t): a method is a tableau, run by one of two steppers.

Times are float64 inside and travel in either direction; states are tensors or tuples of tensors, batch first. NFE
counts the network calls of one sample; a velocity that makes several per evaluation says so by `network_calls()`.
"""

from collections.abc import Sequence
from typing import Any

from fm.errors import SettingsError, member
from fm.paths import Path
from fm.solvers.adaptive import Adaptive
from fm.solvers.field import Field, Solution, Velocity
from fm.solvers.fixed import fixed, grid_for, steps
from fm.solvers.grids import GRIDS
from fm.solvers.multistep import multistep
from fm.tableaux import SOLVERS, Multistep, Tableau, tableau

__all__ = ["CONTROLS", "GRIDS", "SOLVERS", "Multistep", "Solution", "Tableau", "Velocity", "solve", "steps"]

CONTROLS = {"joint": False, "per_sample": True}


def solve(
    velocity: Velocity,
    x_0: Any,
    method: str = "dopri5",
    nfe: int | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    t_span: tuple[float, float] = (0.0, 1.0),
    at: Sequence[float] = (),
    control: str = "joint",
    max_nfe: int = 10_000,
    grid: str | None = None,
    path: Path | None = None,
) -> Solution:
    """The state at the end of t_span (backward too), equation (1); the velocity is given t (), or (batch,) per sample.

    Fixed-step methods take `nfe`, the exact number of network calls, and a `grid`, by default uniform in t; "dpm2m" and
    the other grids need the path (a velocity of fm.objectives brings it along). dopri5 takes rtol and atol; under
    `control` "joint" the batch shares its steps by torchdiffeq's error norm and with its NFE; under "per_sample" each
    sample has its own and leaves the batch when done (a velocity bound to samples offers `rows(mask)`). `max_nfe` ends
    an adaptive solve early, which `stopped` then says. `at`: times whose states are wanted too. Gradients flow through.

    Raises: SettingsError for an unknown method, a budget it cannot meet, or another method's options; ValueUserError
    for shapes and dtypes; NumericalError for NaN or infinity (which sample, which t) or a vanishing step.
    """
    solver = tableau(method)
    field, start, end = Field(velocity, x_0), float(t_span[0]), float(t_span[1])
    for t in at:
        if not min(start, end) <= t <= max(start, end):
            raise SettingsError(f"time {t} is outside the span from {start} to {end}", where="at")
    if isinstance(solver, Multistep) or not solver.error:
        path = path or getattr(velocity, "path", None)
        layout = member(grid or solver.grid, GRIDS, "time grid", where="grid")
        times = grid_for(method, nfe, velocity, field.time_dtype, lambda count: layout(path, start, end, count))
        if isinstance(solver, Multistep):
            return multistep(field, path, times, at)
        return fixed(field, solver, times, at)
    if grid is not None:
        raise SettingsError(f"{method} chooses its own steps", where="grid", mend="leave grid out")
    if nfe is not None:
        raise SettingsError(f"{method} chooses its own number of evaluations", where="nfe", mend="give rtol and atol")
    if not (rtol >= 0 and atol >= 0 and rtol + atol > 0):
        raise SettingsError(f"tolerances {rtol} and {atol}", where="rtol, atol", mend="give positive ones")
    per_sample = member(control, CONTROLS, "control", where="control")
    return Adaptive(field, solver, (rtol, atol), (start, end), at, per_sample).run(max_nfe)

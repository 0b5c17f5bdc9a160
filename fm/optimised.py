"""Time grids chosen for one network: for each number of steps, the times between which a solver's steps err least.

One fine solve says where samples should be. Euler and DPM-Solver++ are then followed step by step: of all ways to a
time in so many steps the one is kept whose samples come nearest to the fine solve's, errors of earlier steps included
(dynamic programming; Pei et al. 2025). That is a search and no proof, for what comes after depends on more than how
near a sample is: where little is missed, more steps can miss more. Steps with inner stages would take a network call
for each pair of times; for those the sum of the errors that their weights leave of the velocities along the fine solve
is the least. All of this guesses at what a solve will miss, and fits the noises that it is made from: on as many others
each grid is then solved beside the known ones, and of all the one that misses least there is taken.
"""

from collections.abc import Mapping
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor

from fm.errors import DataError, SettingsError
from fm.paths import Path
from fm.solvers import Velocity, solve
from fm.solvers.field import column
from fm.solvers.grids import GRIDS, Grid, uniform
from fm.tableaux import EULER, SOLVERS, Multistep, Tableau

OPTIMISED = "optimised"
FINE = 64  # steps of the fine solve between which a grid's times are chosen
MOST = 20  # steps of a chosen grid; with more, any grid does
NOISES = 16  # that a network's grids are chosen from: half choose, half judge
CALLS = 4_000  # of the network for each of them, about
FEW = 8  # steps at most for which all known grids are tried with solvers of several stages
TOLERANCE = 1e-4  # of the fine solve
BATCH = 64  # samples whose velocities are computed at once
Grids = Mapping[str, Tensor]  # by solver float64 (MOST + 1, MOST + 1): row n has the n + 1 times of n steps, then -1


def laid_out() -> list[str]:
    """The solvers that a grid can be chosen for."""
    return [name for name, solver in SOLVERS.items() if isinstance(solver, Tableau | Multistep) and not solver.error]


def best_grids(velocity: Velocity, x_0: Tensor, path: Path) -> dict[str, Tensor]:
    """The grids of each solver for noises x_0 (n, ...), half of which choose and half judge: `Grids`.

    Takes a dopri5 solve at `TOLERANCE`, and about `CALLS` network calls of each sample.
    """
    half = -(-len(x_0) // 2)
    choose, judge = torch.arange(half), torch.arange(len(x_0) - half, len(x_0))
    count = 2 * FINE  # twice as many as times to choose from: a step's middle is a time too
    times = torch.arange(count + 1, dtype=torch.float64) * path.t_max / count
    times[-1] = path.t_max
    exact: dict[str, Any] = {"rtol": TOLERANCE, "atol": TOLERANCE, "control": "per_sample", "path": path}
    with torch.no_grad():
        x = torch.stack(solve(velocity, x_0, "dopri5", at=times.tolist(), t_span=(0.0, path.t_max), **exact).at)
        u = torch.stack([velocity(state, t.to(state.device, state.dtype)) for state, t in zip(x, times, strict=True)])
        ends, judging, found = x[[0, -1]][:, judge], _of(velocity, judge), {}
        x, u, velocity = x[:, choose], u[:, choose], _of(velocity, choose)
        for name in laid_out():
            solver = SOLVERS[name]
            if isinstance(solver, Tableau) and solver is not EULER:
                errors = step_errors(solver, x, u, times)
                rows = [fewest_errors(errors, steps) for steps in range(1, MOST + 1)]
            else:
                rows = _followed(velocity, x[::2], times[::2], path, isinstance(solver, Multistep))
            chosen = torch.full((MOST + 1, MOST + 1), -1.0, dtype=torch.float64)
            for steps, places in enumerate(rows, 1):
                own = times[::2][places].tolist()
                chosen[steps, : steps + 1] = torch.tensor(_least(judging, name, own, ends, path), dtype=torch.float64)
            found[name] = chosen
    return found


def _of(velocity: Velocity, rows: Tensor) -> Velocity:
    """The velocity of some samples, where it knows which they are."""
    return velocity.rows(rows) if hasattr(velocity, "rows") else velocity


def _least(velocity: Velocity, name: str, own: list[float], ends: Tensor, path: Path) -> list[float]:
    """The times of a grid, or those of a known one where solving from the first ends leads nearer to the last ones,
    ends (2, n, ...). Of many steps with inner stages, each of which takes as long, only even ones are known."""
    steps, stages = len(own) - 1, SOLVERS[name].stages

    def missed(times: list[float]) -> float:
        found = solve(velocity, ends[0], name, nfe=steps * stages, grid=lambda *_: times, path=path)
        return float(_rms((found.x - ends[1])[None]))

    grids = GRIDS.values() if stages == 1 or steps <= FEW else [uniform]
    return min([own, *(grid(path, 0.0, path.t_max, steps) for grid in grids)], key=missed)


def step_errors(solver: Tableau, x: Tensor, u: Tensor, times: Tensor) -> Tensor:
    """What a step from each second of the times to a later one misses by the solver's weights, of the velocities u
    along the way x: root mean square over dimensions, mean over samples, (FINE + 1, FINE + 1)."""
    errors = torch.full((FINE + 1, FINE + 1), torch.inf, dtype=torch.float64)
    for i in range(FINE):
        later = 2 * torch.arange(i + 1, FINE + 1)
        # Stages stand at a step's begin, middle or end, which are times of the fine solve.
        stages = [2 * i + (float(c) * (later - 2 * i)).round().long() for c in solver.c]
        slope = sum(float(b) * u[at] for at, b in zip(stages, solver.b, strict=True))
        errors[i, i + 1 :] = _rms(x[2 * i] + column(times[later] - times[2 * i], x) * slope - x[later])
    return errors


def fewest_errors(errors: Tensor, steps: int) -> list[int]:
    """The places of the grid of so many steps, from 0 to the last one, whose errors (places, places) sum to least."""
    last = len(errors) - 1
    cost = torch.full((last + 1,), torch.inf, dtype=torch.float64)
    cost[0] = 0
    came = []
    for _ in range(steps):
        cost, best = (cost[:, None] + errors.double()).min(0)
        came.append(best)
    return _way(came, last)


def _followed(velocity: Velocity, x: Tensor, times: Tensor, path: Path, multistep: bool) -> list[list[int]]:
    """The grids of 1 to `MOST` steps of one evaluation each, followed beside the fine solve x (FINE + 1, n, ...)."""
    at = x[:1].expand_as(x).clone()  # the state at each place after the steps so far, where it can be reached
    data, length = torch.zeros_like(x), torch.full((FINE + 1,), torch.inf, dtype=torch.float64)
    schedule = path.schedule(times)
    level = (schedule.a / schedule.sigma).log().flatten()
    came: list[Tensor] = []
    ways = []
    for step in range(MOST):
        least, best = torch.full((FINE + 1,), torch.inf, dtype=torch.float64), torch.zeros(FINE + 1, dtype=torch.long)
        before, reached = (at, data, length), (at.clone(), data.clone(), length.clone())
        here = torch.arange(step, FINE if step else 1)
        for k, u in zip(here.tolist(), _at_once(velocity, at[here], times[here]), strict=True):
            later = torch.arange(k + 1, FINE + 1)
            own = path.data_from_velocity(u, at[k], times[k]) if multistep else u
            if multistep:
                ends = _extrapolated(at[k], own, before[1][k], schedule, level, float(before[2][k]), k, later)
            else:
                ends = at[k] + column(times[later] - times[k], x) * own
            errors = _rms(ends - x[later])
            nearer = errors < least[later]
            places = later[nearer]
            least[places], best[places] = errors[nearer], k
            for part, value in zip(reached, (ends[nearer], own, level[places] - level[k]), strict=True):
                part[places] = value
        at, data, length = reached
        came.append(best)
        ways.append(_way(came, FINE))
    return ways


def _at_once(velocity: Velocity, states: Tensor, times: Tensor) -> Tensor:
    """The velocities at states (places, n, ...), each place at its own time, as many at once as `BATCH` samples."""
    n = states.shape[1]
    found = []
    for some, at in zip(states.split(max(1, BATCH // n)), times.split(max(1, BATCH // n)), strict=True):
        whose = torch.arange(n).repeat(len(some))
        own = _of(velocity, whose)
        t = at.repeat_interleave(n).to(states.device, states.dtype)
        found.append(own(some.flatten(0, 1), t).view_as(some))
    return torch.cat(found)


def _extrapolated(
    x: Tensor, own: Tensor, before: Tensor, schedule: Any, level: Tensor, length: float, k: int, later: Tensor
) -> Tensor:
    """Steps of DPM-Solver++(2M) to later places, as `solvers.multistep` makes it: the last is of first order."""
    a, sigma = schedule.a.flatten(), schedule.sigma.flatten()
    ahead = (level[later] - level[k]) / (2 * length)
    ahead = torch.where((later == FINE) | ~ahead.isfinite(), 0.0, ahead)
    guess = own + column(ahead, x[None]) * (own - before)
    shrink = sigma[later] / sigma[k]
    return column(shrink, x[None]) * x + column(a[later] - a[k] * shrink, x[None]) * guess


def _way(came: list[Tensor], last: int) -> list[int]:
    places = [last]
    for best in reversed(came):
        places.append(int(best[places[-1]]))
    return places[::-1]


def _rms(missed: Tensor) -> Tensor:
    """Of (places, n, ...): root mean square over dimensions, mean over samples, (places,) float64."""
    return missed.flatten(2).square().mean(2).sqrt().mean(1).double().cpu()


def grid_of(chosen: Tensor) -> Grid:
    """The grid that a solver is run on, `chosen` being its own of `Grids`, in both directions.

    The grid raises: SettingsError for more than `MOST` steps, and for other ends than noise and data.
    """

    def grid(path: Path | None, start: float, end: float, count: int) -> list[float]:
        if path is None or {start, end} != {0.0, path.t_max}:
            raise SettingsError("an optimised grid leads from noise to data or back", "grid", "choose uniform")
        if count > MOST:
            raise SettingsError(f"is chosen for up to {MOST} steps, not for {count}", "grid", "choose uniform")
        times = chosen[count, : count + 1].tolist()
        return times if start < end else times[::-1]

    return grid


def grids_file(run: File, weights: str) -> File:
    """Where a RUN keeps the grids that were chosen for these weights (SHA-256)."""
    return run / "grids" / f"{weights[:16]}-times.safetensors"


def kept_grids(run: File, weights: str) -> dict[str, Tensor]:
    """The grids by solver that RUN keeps for these weights; none if nobody chose them.

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

"""dopri5 with one step size for each sample, against one for the batch, and torchode's: work at equal error.

For each control the logarithms of evaluations and of CPU seconds are fitted by a line in the logarithm of the error (of
a method of one order they are one); rows compare the lines in the middle of the errors that all have reached. The error
is the 95 % quantile over samples of the distance to a solution at a far smaller tolerance.
"""

import importlib.util
import math
import tempfile
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from fm.data import Preparation, ShardedImages, open_source, write_shards
from fm.models import MLP
from fm.objectives import FlowMatching
from fm.paths import OTPath
from fm.pixels import to_unit
from fm.solvers import CONTROLS, Velocity, solve
from tests.benchmarks.timing import Row, seconds

SAMPLES = 256
TOLERANCES = [10 ** (-k / 2) for k in range(5, 13)]
Solve = Callable[[Velocity, Tensor, float], tuple[Tensor, float]]  # the end states, and the mean NFE of a sample


def adaptive() -> Iterator[Row]:
    """The exact velocity of eight clusters in the plane; networks trained on a checkerboard and on photographs."""
    problems = {
        "exact, 8 clusters": (clusters(), 2),
        "MLP, checkerboard": (trained(2, checkerboard), 2),
        "MLP, tiles of 8 px": (trained(192, tiles()), 192),
    }
    for name, (velocity, dims) in problems.items():
        x_0 = torch.randn(SAMPLES, dims, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            yield from compared(name, velocity, x_0)


def compared(name: str, velocity: Velocity, x_0: Tensor) -> Iterator[Row]:
    exact = solve(velocity, x_0, rtol=1e-9, atol=1e-9, control="per_sample", max_nfe=10**6).x
    solvers: dict[str, Solve] = {control: ours(control) for control in CONTROLS}
    if importlib.util.find_spec("torchode"):
        solvers["torchode"] = torchode
    work = {solver: measured(run, velocity, x_0, exact) for solver, run in solvers.items()}
    errors = [points[0] for points in work.values()]
    level = math.sqrt(max(e.min() for e in errors) * min(e.max() for e in errors))
    nfe, cpu = ({solver: at(level, points[0], points[i]) for solver, points in work.items()} for i in (1, 2))
    for peer in ("joint", "torchode"):
        for what, unit, cost in (("NFE", "", nfe), ("CPU", " s", cpu)):
            mine = f"dopri5 per sample, {name}, {what} at error {level:.0e}: {cost['per_sample']:.3g}{unit}"
            limit = " (limit 0.85)" if peer == "joint" else ""
            if peer in cost:
                yield mine, f"{peer} {cost[peer]:.3g}{unit}{limit}", cost["per_sample"] / cost[peer]
            else:
                yield mine, f"{peer} is not installed: `uv pip install torchode`", math.nan


def measured(run: Solve, velocity: Velocity, x_0: Tensor, exact: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Error, NFE and CPU seconds at each tolerance."""
    found = []
    for tolerance in TOLERANCES:
        x, nfe = run(velocity, x_0, tolerance)
        error = (x - exact).norm(dim=1).quantile(0.95).item()
        found.append((error, nfe, seconds(lambda tolerance=tolerance: run(velocity, x_0, tolerance))))
    errors, nfe, cpu = np.array(found).T
    return errors, nfe, cpu


def at(level: float, errors: np.ndarray, cost: np.ndarray) -> float:
    slope, start = np.polyfit(np.log(errors), np.log(cost), 1)
    return float(np.exp(start + slope * math.log(level)))


def ours(control: str) -> Solve:
    def run(velocity: Velocity, x_0: Tensor, tolerance: float) -> tuple[Tensor, float]:
        solution = solve(velocity, x_0, rtol=tolerance, atol=tolerance, control=control)
        return solution.x, solution.nfe_per_sample.double().mean().item()

    return run


def torchode(velocity: Velocity, x_0: Tensor, tolerance: float) -> tuple[Tensor, float]:
    """Steps of each sample's own, but every sample is evaluated until the last one is done."""
    import torchode

    term = torchode.ODETerm(lambda t, x: velocity(x, t))
    controller = torchode.IntegralController(tolerance, tolerance, term=term)
    solver = torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), controller)
    ends = (torch.full((len(x_0),), t, dtype=x_0.dtype) for t in (0.0, 1.0))
    solution = solver.solve(torchode.InitialValueProblem(x_0, *ends))
    return solution.ys[:, -1], solution.stats["n_f_evals"].double().mean().item()


def clusters() -> Velocity:
    """Eight clusters of 50 points each; sigma_min is of the clusters' own fineness."""
    angles = torch.arange(8, dtype=torch.float64) * math.pi / 4
    spread = torch.randn(400, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    points = 2 * torch.stack([angles.cos(), angles.sin()], 1).repeat_interleave(50, 0) + 0.1 * spread
    path, sizes = OTPath(sigma_min=0.05), points.square().sum(1)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        s = path.schedule(t.reshape(-1, 1))
        weights = torch.softmax((s.a * (x @ points.T) - s.a**2 * sizes / 2) / s.sigma**2, 1)
        return path.velocity_from_data(weights @ points, x, t)

    return velocity


def checkerboard(count: int) -> Tensor:
    x, rows = 4 * torch.rand(count) - 2, torch.randint(0, 2, (count,))
    return torch.stack([x, torch.rand(count) - 2 * rows + x.floor() % 2], 1)


def tiles() -> Callable[[int], Tensor]:
    """Draws of dequantised 8 x 8 tiles of photographs, as vectors."""
    with tempfile.TemporaryDirectory() as folder:
        write_shards(open_source("photos:?tiles=100"), folder, Preparation(size=8))
        data = ShardedImages(folder, "train")
        images = torch.from_numpy(data.gather(range(len(data)))).flatten(1)
    return lambda count: to_unit(images[torch.randint(0, len(images), (count,))], torch.rand(count, images.shape[1]))


def trained(dims: int, draw: Callable[[int], Tensor]) -> Velocity:
    """An MLP on the OT path, after half a minute of training."""
    torch.manual_seed(0)
    model, objective = MLP(dims, width=512 if dims > 2 else 256, depth=4), FlowMatching(OTPath())
    optimizer, steps = torch.optim.Adam(model.parameters()), 1500
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / steps)
        x_1 = draw(256)
        loss = objective.loss(model, x_1, t=torch.rand(256), z=torch.randn(256, dims)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return objective.velocity(model.double().requires_grad_(False))

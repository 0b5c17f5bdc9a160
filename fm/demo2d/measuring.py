"""One trained flow of points -> rows, and the tensors that its pictures are drawn from; kept in RUN, found again there.

All is compared with the true distribution: energy distances with what true points get, bits with the true density's.
"""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from fm.columns import CONVERGED
from fm.data.plane import Points
from fm.demo2d.plan import Plan
from fm.files import atomic
from fm.flow import Flow
from fm.lineage import code_digest, digest
from fm.metrics import energy_estimate
from fm.metrics.trajectories import backtracking, straightness
from fm.results import Row

TIMES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)  # of the pictures of densities
EXACT: dict[str, Any] = {"method": "dopri5", "rtol": 1e-5, "atol": 1e-5}
COARSER: dict[str, Any] = {"method": "dopri5", "rtol": 1e-4, "atol": 1e-4}  # what the exact one has to agree with
GRIDS = ("uniform", "log_snr")
FILE = "measured.safetensors"


@dataclass(frozen=True)
class Measured:
    """rows: a solver each; numbers: shape of the trajectories; tensors: samples by NFE, paths and densities."""

    rows: list[Row]
    numbers: dict[str, float]
    tensors: dict[str, Tensor]

    def save(self, run: Path, key: str) -> None:
        words = {"key": key, "rows": json.dumps(self.rows), "numbers": json.dumps(self.numbers)}
        with atomic(run / FILE) as file:
            file.write(save({name: tensor.contiguous() for name, tensor in self.tensors.items()}, words))

    @staticmethod
    def load(run: Path, key: str) -> "Measured | None":
        """What was measured under that key, or None."""
        if not (run / FILE).exists():
            return None
        with safe_open(run / FILE, "pt") as file:
            words = file.metadata()
            if words["key"] != key:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Measured(json.loads(words["rows"]), json.loads(words["numbers"]), tensors)


def key(flow: Flow, plan: Plan) -> str:
    """Identifies a measurement: weights, data, sizes and code."""
    return digest(flow.lineage, plan, code_digest(), torch.__version__)


def measure(flow: Flow, points: Points, plan: Plan) -> Measured:
    """Everything that the page shows of one flow."""
    cells = list(_cells(flow, points, plan))
    samples = {f"samples/{r['nfe']}": x for r, x in cells if r["grid"] == "uniform"}
    states = flow.trajectory(plan.paths, torch.linspace(0, 1, plan.steps + 1).tolist(), **EXACT)
    densities = flow.trajectory(plan.densities, TIMES, method="dopri5", rtol=1e-3, atol=1e-3)
    length, away = straightness(states), backtracking(states)
    numbers = {
        "straightness": float(length.median()),
        "straightness_mean": float(length.mean()),
        "spread": float(densities.std(1).square().mean(1).sqrt().min()),
        "backtracking": float(away.mean()),
        "paths": plan.paths,
        "steps": plan.steps,
    }
    return Measured([row for row, _ in cells], numbers, {**samples, "states": states, "densities": densities})


def _cells(flow: Flow, points: Points, plan: Plan) -> Iterator[tuple[Row, Tensor]]:
    """Rows and their points: midpoint at each budget on the paper's grid and on the one even in log-SNR; dopri5."""
    reference, floor = (points.at(torch.arange(plan.samples), split) for split in ("reference", "floor"))
    common = _common(flow, points, plan) | _distance("energy_floor", floor, reference)
    budgets = [{"method": "midpoint", "grid": grid, "nfe": nfe} for grid in GRIDS for nfe in plan.nfe]
    for solver in [*budgets, EXACT]:
        start = time.monotonic()
        drawn = flow.draw(plan.samples, batch=plan.samples, **solver)
        cost = {
            "solver": solver["method"],
            "nfe": drawn.nfe,
            "nfe_mean": drawn.nfe_mean,
            "tolerance": solver.get("rtol"),
        }
        row = common | cost | {"grid": solver.get("grid", "adaptive, joint within the batch")}
        row |= _distance("energy", drawn.x, reference) | (_bits(flow, points, plan) if solver is EXACT else {})
        yield {"key": digest(row), **row, "seconds": time.monotonic() - start}, drawn.x


def _common(flow: Flow, points: Points, plan: Plan) -> Row:
    about = {"method": flow.method, "path": flow.path.kind, "distribution": points.distribution}
    return {**about, "samples": plan.samples, "seed": 0, "code": code_digest(), **flow.lineage}


def _distance(name: str, x: Tensor, reference: Tensor) -> Row:
    found = energy_estimate(x, reference)
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _bits(flow: Flow, points: Points, plan: Plan) -> Row:
    """Bits/dim of held-out points, what the true density gives to the same points, and their difference."""
    x = points.at(torch.arange(plan.heldout), "heldout")
    found, coarser = (flow.bits_per_dim(x, batch=plan.heldout, **solver) for solver in (EXACT, COARSER))
    bits, true = found.bpd.double(), -points.log_density(x) / (2 * math.log(2))
    excess, converged = bits - true, float((bits - coarser.bpd.double()).abs().mean()) < CONVERGED
    return {
        "bits_per_dim": float(bits.mean()) if converged else None,
        "bits_per_dim_stderr": found.stderr,
        "bits_per_dim_floor": float(true.mean()),
        "bits_excess": float(excess.mean()) if converged else None,
        "bits_excess_stderr": float(excess.std() / math.sqrt(len(x))),
        "nll_converged": converged,
        "nll_images": plan.heldout,
        "nll_nfe": found.nfe,
    }

import math

import pytest
import torch

from fm.comparing import Comparison, compare, run_of
from fm.noise import draws
from fm.paths import OTPath, VPPath
from fm.report.plane import Section, Trained

TIMES = (0.0, 0.5, 1.0)


def plane_row(path: str, nfe: int, grid: str, energy: float, **values):
    row = {"key": f"{path}{nfe}{grid}", "method": f"FM w/ {path}", "path": path, "solver": "midpoint", "grid": grid}
    row |= {"nfe": nfe, "tolerance": None, "samples": 50, "seed": 0, "energy": energy, "energy_low": energy - 0.001}
    row |= {"energy_high": energy + 0.001, "energy_floor": 0.002, "energy_floor_low": 0.001, "energy_floor_high": 0.003}
    return row | {"weights": "abc", "data": "d", "recipe": "r", "images_seen": 1, "code": "c"} | values


def trained(name: str, path, energies: tuple[float, float], excess: float | None) -> Trained:
    x = draws(0, name, torch.arange(60), (2,))
    rows = [plane_row(path.kind, nfe, "uniform", e) for nfe, e in zip((4, 8), energies, strict=True)]
    bits = {"bits_per_dim": excess and 1.5 + excess, "bits_per_dim_stderr": 0.01, "bits_per_dim_floor": 1.5}
    bits |= {"bits_excess": excess, "bits_excess_stderr": 0.005, "nll_converged": excess is not None}
    exact = {"solver": "dopri5", "tolerance": 1e-5, "nll_images": 50, "nll_nfe": 80.0}
    rows.append(plane_row(path.kind, 60, "adaptive", 0.002, **exact, **bits))
    numbers = {"straightness": 1.25, "straightness_mean": 1.5, "backtracking": 0.1, "spread": 0.8}
    numbers |= {"paths": 60, "steps": 2}
    states = x.expand(3, -1, -1)
    return Trained(name, path, rows, numbers, {4: x, 8: x}, states, states, f"moons-{path.kind}", 3.2)


@pytest.fixture
def section() -> Section:
    """VP is lower at NFE 4, OT at NFE 8; VP's likelihood has not converged."""
    runs = [trained("OT", OTPath(), (0.02, 0.01), 0.125), trained("VP", VPPath(), (0.01, 0.02), None)]
    return Section("two_moons", draws(0, "true", torch.arange(500), (2,)), TIMES, runs)


def compared_row(nfe: int, value: float | None, without: float = 0.0, **values):
    """A row of a run to compare; `without` moves what leaving out a group gives against that of others."""
    row = {"key": f"{nfe}{value}", "method": "FM w/ OT", "path": "ot", "solver": "euler", "nfe": nfe, "tolerance": None}
    row |= {"samples": 300, "seed": 0, "data": "d", "features": "x", "features_weights": "w", "reference_images": 900}
    row |= {"weights": "abcdef0123", "images_seen": 19200, "noise": "positions", "noise_digest": "n", "batch": 50}
    row |= {"seconds": 1.0, "nfe_mean": None, "precision": "fp32", "nll_converged": None}
    if value is not None:
        row |= {"fd_x": value, "fd_x_low": value - 9, "fd_x_high": value + 9, "fd_x_floor": 20.0}
        row |= {"fd_x_without": [g + without * g % 3 for g in range(10)]}
        row |= {"solution_error": value / 1000, "solution_error_stderr": 0.01}
    return row | values


@pytest.fixture
def comparison() -> Comparison:
    """`ot` is better at NFE 8 and alone at 16, at 4 nobody is; `v_p` failed in dopri5 and has a second seed at 8."""
    adaptive = {"solver": "dopri5", "tolerance": 1e-3, "control": "joint"}
    bits = {"nll_converged": True, "nll_images": 20, "nll_k": 1, "bits_per_dim_stderr": 0.1}
    bits |= {"generalisation_gap": 0.25, "generalisation_gap_stderr": 0.1 * math.sqrt(2)}
    ot = [compared_row(4, 500.0), compared_row(8, 400.0), compared_row(8, 404.0, seed=1), compared_row(16, 300.0)]
    ot.append(compared_row(62, 210.0, nfe_mean=58.25, bits_per_dim=4.25, **adaptive, **bits))
    vp = [compared_row(4, 501.0, 2.0), compared_row(8, 450.0, 0.5), compared_row(8, 470.0, 0.5, seed=1)]
    failed = {"failed": "3 of 300 samples are not finite", "weights": "fedcba9876"}
    vp = [row | {"method": "FM w/ Diffusion", "weights": "fedcba9876"} for row in vp]
    vp.append(compared_row(0, None, method="FM w/ Diffusion", **adaptive | failed) | {"nfe": 70})
    return compare([run_of("ot", "runs/ot", ot), run_of("v_p", "runs/v_p", vp)])

import pytest
import torch

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

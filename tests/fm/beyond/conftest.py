"""A table beyond the paper, two seeds, in which MeanFlow wins at one evaluation and loses at many; made up."""

import math
from typing import Any

import pytest

from fm.beyond.plan import LINES, METHODS, guided_points, points
from fm.paper.trained import Trained

FD = "fd_random_conv"


def row(key: str, seed: int, solver: str, nfe: int | None, grid: str = "", value: float = 100.0) -> dict[str, Any]:
    """A row as fm.evaluation writes it."""
    without = [value + math.sin(7 * group) for group in range(10)]
    one = {"method": METHODS[key].name, "path": "ot", "seed": 0, "seconds": 1.0, "features": "random_conv"}
    one |= {"solver": solver, "tolerance": None if nfe else 1e-5, "nfe": nfe or 80, "nfe_mean": float(nfe or 80)}
    one |= {"samples": 256, "data": "d", "features_weights": "w", "reference_images": 1000, "batch": 64}
    one |= {"noise_digest": "n", "images_seen": 12_800, "code": "c", "samples_not_finite": 0, "control": "joint"}
    one |= {"key": f"{key}-{seed}-{solver}-{nfe}-{grid}", "weights": f"w{key}{seed}", "features_dimensions": 80}
    one |= {FD: value, f"{FD}_low": value - 4, f"{FD}_high": value + 4, f"{FD}_without": without, f"{FD}_floor": 19.0}
    return one | ({"chosen_grid": grid} if grid else {})


def trained_of(key: str, seed: int) -> Trained:
    rows = []
    for point in points(key):
        value = 400.0 / point["nfe"] + 100 + seed
        if point["solver"] == "jump":
            value = 150.0 + seed
        rows.append(row(key, seed, point["solver"], point["nfe"], point.get("grid", ""), value))
    for point in guided_points(key):
        guided = row(key, seed, point["solver"], point["nfe"], f"guided {point['nfe']}", 190.0 + seed)
        rows.append({k: v for k, v in guided.items() if k != "chosen_grid"} | {"guidance": point["guidance"]})
    bits = {"bits_per_dim": 4.0 + seed / 10, "bits_per_dim_stderr": 0.1, "nll_converged": True, "nll_images": 64}
    rows.append(row(key, seed, "dopri5", None, value=90.0) | bits)
    records = ({"images_seen": 12_800, "seconds": 60.0 + seed},)
    return Trained(METHODS[key], seed, f"runs/{key}-seed{seed}", tuple(rows), records=records, trained_by=("c",))


@pytest.fixture
def trained() -> list[Trained]:
    return [trained_of(key, seed) for seed in range(2) for key in METHODS]


@pytest.fixture
def line() -> Any:
    return {line.title: line for line in LINES}

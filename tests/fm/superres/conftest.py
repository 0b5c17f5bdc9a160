"""A comparison of super-resolution as the paper found it, two seeds; made up throughout."""

import math

import pytest
import torch

from fm.paper.trained import Trained
from fm.superres.plan import METHODS
from fm.superres.reading import Answers

FD = "fd_efficientnet_lite0_b7"
PSNR = {"regression": 27.9, "sr3": 26.4, "fm-ot": 24.7}
FID = {"regression": 152.0, "sr3": 52.0, "fm-ot": 34.0}


def without(value: float, spread: float) -> list[float]:
    return [value + spread * math.sin(7 * group) for group in range(10)]


def row(key: str, seed: int, solver: str = "dopri5", tolerance: float | None = 1e-4, **changes):
    """A row as fm.evaluation writes it."""
    nfe, fid, psnr = {"regression": 1, "sr3": 120, "fm-ot": 60}[key] + seed, FID[key] + seed, PSNR[key] + seed / 10
    one = {"method": METHODS[key].name, "path": "ot", "seed": 0, "seconds": 1.0, "features": "efficientnet_lite0_b7"}
    one |= {"solver": solver, "tolerance": tolerance, "nfe": nfe, "nfe_mean": float(nfe), "samples": 256, "data": "d"}
    one |= {"features_weights": "w", "reference_images": 1000, "batch": 64, "precision": "fp32", "control": "joint"}
    one |= {"noise": "positions", "noise_digest": "n", "images_seen": 60_032, "code": "c", "samples_not_finite": 0}
    one |= {"key": f"{key}-{seed}-{solver}-{tolerance}", "weights": f"w{key}{seed}", "features_dimensions": 80}
    one |= {FD: fid, f"{FD}_low": fid - 4, f"{FD}_high": fid + 4, f"{FD}_without": without(fid, 1), f"{FD}_floor": 19.0}
    for name, value, spread in (("psnr", psnr, 0.1), ("ssim", 0.7, 0.01), ("low_psnr", 36.0, 0.5)):
        one |= {name: value, f"{name}_stderr": spread, f"{name}_without": without(value, spread / 3)}
    return one | changes


def trained_of(key: str, seed: int) -> Trained:
    rows = (row(key, seed, "euler", None), *([] if key == "regression" else [row(key, seed)]))
    return Trained(METHODS[key], seed, f"runs/{key}-seed{seed}", rows, trained_by=("c",))


@pytest.fixture
def trained() -> list[Trained]:
    return [trained_of(key, seed) for seed in range(2) for key in METHODS]


@pytest.fixture
def bicubic():
    return row("regression", 0, "", None, method="Bicubic", psnr=25.0)


@pytest.fixture
def answers() -> Answers:
    generator = torch.Generator().manual_seed(0)

    def pictures(*shape: int) -> torch.Tensor:
        return torch.randint(256, shape, generator=generator, dtype=torch.uint8)

    by_method = {name: pictures(6, 3, 16, 16) for name in ("Bicubic", "Regression", "SR3-style", "FM w/ OT")}
    return Answers(pictures(6, 3, 4, 4), pictures(6, 3, 16, 16), by_method, pictures(3, 6, 3, 16, 16))

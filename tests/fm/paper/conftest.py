"""A comparison as the paper found it: OT best in everything, Score Matching worst, two seeds; made up throughout."""

import math
from dataclasses import replace

import pytest
import torch

from fm.paper.methods import METHODS
from fm.paper.plan import planned
from fm.paper.trained import Trained

# How much worse than OT a method is in everything: its distances, evaluations, spreads, ways.
WORSE = {
    "fm-ot": 0.0,
    "fm-vp": 1.0,
    "ddpm": 1.3,
    "scoreflow-scaled": 2.2,
    "scoreflow-raw": 2.6,
    "score-matching-raw": 3.0,
    "fm-ve": 4.0,
}
SEEN = (20_032, 40_064, 60_096, 80_128)
FD = "fd_efficientnet_lite0_b7"


def without(value: float, spread: float, seed: int = 0) -> list[float]:
    """What a value is without each of ten groups; most of the noise is shared by all methods and drops out of pairs."""
    return [value + spread * (math.sin(7 * group + seed) + math.cos(group * value) / 10) for group in range(10)]


def row(worse: float, seed: int, **values):
    """A row as fm.evaluation writes it."""
    one = {"path": "ot", "seed": 0, "seconds": 1.0, "features": "efficientnet_lite0_b7", "features_weights": "w"}
    one |= {"tolerance": None, "samples": 256, "data": "d", "reference_images": 1000, "batch": 64, "precision": "fp32"}
    one |= {"noise": "positions", "noise_digest": "n", "images_seen": SEEN[-1], "code": "c", "samples_not_finite": 0}
    one |= {"key": f"{worse}-{seed}-{len(values)}", "weights": f"w{worse}-{seed}", "features_dimensions": 80}
    one |= {"way_bend": 0.1 + worse / 4, "way_detour": 1.03 + worse / 10, "way_backtracking": worse / 10}
    one |= {"way_appears": 0.4 + worse / 10}
    for name in ("bend", "detour", "backtracking", "appears"):
        one |= {f"way_{name}_stderr": 0.002, f"way_{name}_without": without(one[f"way_{name}"], 0.0005, seed)}
    one |= {"solution_error_images": 64, "solution_error_tolerance": 1e-6}
    return one | {"nll_converged": None, "samples_outside": 0.1} | values


def distance(value: float, seed: int):
    low_high = {f"{FD}_low": value - 20, f"{FD}_high": value + 20}
    return {FD: value, **low_high, f"{FD}_without": without(value, 3, seed), f"{FD}_floor": 60.0}


def likelihood(worse: float, seed: int):
    held, own = 4.0 + worse / 10 + seed / 100, 4.0 + worse / 30
    bits = {"bits_per_dim": held, "bits_per_dim_stderr": 0.05, "bits_per_dim_k1": held, "nll_converged": True}
    bits |= {"bits_per_dim_without": without(held, 0.01), "nll_k": 1, "nll_images": 64, "nll_probe": "per_image"}
    bits |= {"bits_per_dim_train": own, "bits_per_dim_train_stderr": 0.05, "nll_training_images": 64}
    bits |= {"bits_per_dim_train_without": without(own, 0.01, 3)}
    return bits | {"generalisation_gap": held - own, "generalisation_gap_stderr": 0.07}


def rows_of(key: str, worse: float, seed: int):
    name = METHODS[key].name
    made = []
    for solver, order in (("euler", 1), ("midpoint", 2), ("rk4", 4)):
        for nfe in (4, 8, 16, 32):
            error = (1 + 0.7 * worse) ** order * nfe**-order
            values = {"solver": solver, "nfe": nfe, "solution_error": error, "solution_error_stderr": error / 50}
            values |= {"solution_error_without": [error * part for part in without(1.0, 0.01, seed)]}
            made.append(values | distance(400 + 40 * worse + 300 * (1 + worse) / nfe + seed, seed))
    nfe = 68 + 20 * worse + 2 * seed
    fine = {"solver": "dopri5", "nfe": math.ceil(nfe), "nfe_mean": nfe, "tolerance": 1e-5, "control": "joint"}
    fine |= {"solution_error": 1e-7, "solution_error_without": [1e-7] * 10, "solution_error_stderr": 1e-9}
    made.append(fine | distance(400 + 40 * worse + seed, seed))
    coarse = fine | {"tolerance": 1e-4, "samples": 20, "nfe": 50, "nfe_mean": 50.0}
    made.append(coarse | distance(900.0, seed) | likelihood(worse, seed))
    return tuple(row(worse, seed, method=name, **values) for values in made)


def trained_of(key: str, seed: int) -> Trained:
    """A training as it would stand if its method were worse by what `WORSE` says."""
    method, worse = METHODS[key], WORSE[key]
    along = tuple(
        row(worse, seed, method=method.name, solver="midpoint", nfe=16, weights=f"{seen}", images_seen=seen)
        | distance(400 + 40 * worse + 8e6 * (1 + worse) / seen + seed, seed)
        for seen in SEEN
    )
    generator = torch.Generator().manual_seed(seed)
    records = []
    for step in range(1, 101):
        z = torch.randn(11, generator=generator).tolist()
        flat = {f"loss_t{t}": (0.6 + 0.05 * abs(t - 4.5)) * (1 + 0.02 * (1 + worse) * z[t]) for t in range(10)}
        one = {"images_seen": 800 * step, "loss": 0.6, "seconds": 1.0}
        records.append(one | {"grad_norm": 0.4 * math.exp(0.1 * (1 + worse) * z[10])} | flat)
    solving = tuple(
        {"images_seen": seen, "tolerance": 1e-5, "nfe": 62 + 20 * worse + 2 * i + 15 * worse * i}
        for i, seen in enumerate(SEEN)
    )
    where = f"runs/{key}-seed{seed}"
    return Trained(method, seed, where, rows_of(key, worse, seed), along, tuple(records), solving, ("c",))


@pytest.fixture(scope="session")
def trained() -> list[Trained]:
    return [trained_of(key, seed) for seed in range(2) for key in WORSE]


@pytest.fixture(scope="session")
def plan():
    return planned("photos")


def swapped(trained, one: str, other: str):
    """The same trainings, all that stands of two methods changed for each other's."""
    taken = {(t.method.key, t.seed): t for t in trained}
    to = {one: other, other: one}
    found = []
    for t in trained:
        source = taken[to.get(t.method.key, t.method.key), t.seed]
        found.append(replace(source, method=t.method))
    return found


def each_row(trained, key: str, change, part: str = "rows"):
    """The same trainings, each row of one method's passed through `change`; "" is every method."""
    return [
        replace(t, **{part: tuple(map(change, getattr(t, part)))}) if key in ("", t.method.key) else t for t in trained
    ]


def changed(trained, key: str, **values):
    """The same trainings, these fields of one method's changed."""
    return [replace(t, **values) if t.method.key == key else t for t in trained]

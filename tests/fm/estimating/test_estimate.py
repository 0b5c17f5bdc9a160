"""From seconds of a step to those of a run: by hand, where it can be done by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fm.data import Preparation, load_manifest, open_source, write_shards
from fm.errors import DataError
from fm.estimating import estimate as module
from fm.estimating import parts
from fm.estimating.counting import count
from fm.estimating.estimate import estimate, of_folder, of_source
from fm.estimating.measuring import Data, Measured
from fm.footprint import Activations, Footprint
from fm.recipe import Recipe
from fm.solvers import solve

DATA = Data("", 500, (3, 16, 16), 0)
CHANGES = ["training.total_images=6400", "evaluation.nll_k=2"]
TRAINING_S = 100 * 0.5 + 7 * 16 * 53 * 0.01  # steps, and a grid of samples at each of seven checkpoints


def found(need: Footprint, **changes) -> Measured:
    values = {"device": "CPU", "processes": 2, "share_images": 32, "step_images": 32, "steps": 9, "step_s": 0.5}
    values |= {"step_cpu_s": 0.48, "sample_s": 0.01, "likelihood_s": 0.03, "features_s": 0.02, "distances_s": 0.1}
    values |= {"footprint": need, "peak_bytes": 5e8, "seconds": 7.0}
    return Measured(**{**values, **changes})


def estimated(monkeypatch: pytest.MonkeyPatch, *changes: str, workers: int = 2, **measured) -> module.Estimate:
    recipe = Recipe.load("tiny", [*CHANGES, *changes])
    monkeypatch.setattr(module, "measure", lambda recipe, data, workers, need, say: found(need, **measured))
    monkeypatch.setattr(parts.os, "cpu_count", lambda: 2)
    known = replace(count(recipe, DATA, workers), parameters=10**6, held=Activations(1000, 500))
    return estimate(recipe, DATA, known, {"DATA": (2**20, "500 pictures")})


def test_parts_are_products_and_the_whole_is_their_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    values = estimated(monkeypatch).values
    assert values["training_s"] == pytest.approx(TRAINING_S)
    assert values["training_hours"] == pytest.approx(2 * TRAINING_S / 3600)
    parts = {name.strip(): part["seconds"] for name, part in values["parts"].items()}
    reference, euler = 0.02 * (40 + 40), 40 * (4 * 0.01 + 0.02) + 10 * 2 * (4 + 8) * 0.03 + 0.1
    assert parts["reference"] == pytest.approx(reference)
    assert parts["euler 4"] == parts["untrained, euler 4"] == pytest.approx(euler)
    dopri5 = 20 * (53 * 0.01 + 0.02) + 10 * 2 * (53 + 85) * 0.03 + 0.1
    assert parts["dopri5 0.001"] == pytest.approx(dopri5)
    assert values["evaluation_hours"] * 3600 == pytest.approx(sum(parts.values()))
    assert values["evaluation_s"] == pytest.approx(reference + dopri5)  # two slots: the others are done by then
    assert values["disk_bytes"] == {"RUN": 2 * 4 * 4_000_000, "DATA": 2**20}
    json.dumps(values, allow_nan=False)


def test_a_network_before_its_first_step_is_zero_and_cheap_to_integrate(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = "evaluation.grid=[{solver = 'dopri5', tolerance = 1e-5}]"
    parts = estimated(monkeypatch, grid, "evaluation.nll_images=0").values["parts"]
    zero = solve(lambda x, t: 0 * x, torch.ones(1, 2), method="dopri5", rtol=1e-5, atol=1e-5)
    assert parts["  untrained, dopri5 1e-05"]["seconds"] == pytest.approx(40 * (zero.nfe * 0.01 + 0.02) + 0.1)
    assert parts["  dopri5 1e-05"]["seconds"] == pytest.approx(40 * (134 * 0.01 + 0.02) + 0.1)


def test_a_time_limit_ends_the_training_and_a_gpu_counts_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    values = estimated(monkeypatch, "training.max_seconds=20").values
    assert (values["training_s"], values["images"]) == (20, 40 * 64)
    monkeypatch.setattr(module, "free_bytes", lambda device, workers: 10**9)
    monkeypatch.setattr(parts.torch.cuda, "device_count", lambda: 1)
    changes = "training.threads=3", "training.fsdp=true"
    values = estimated(monkeypatch, *changes, workers=4, device="H100", step_s=3.6).values
    assert values["training_hours"] == pytest.approx(4 * 100 * 3.6 / 3600) and values["training_unit"] == "GPU-hours"
    assert values["evaluation_s"] == pytest.approx(3600 * values["evaluation_hours"])
    assert values["evaluation_unit"] == "GPU-hours" and values["disk_bytes"]["RUN"] == 2 * 4 * 4_000_000


def test_the_table_is_aligned_and_says_what_was_carried_on_and_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    title, head, *lines = estimated(monkeypatch, step_images=8).text().splitlines()
    assert title == "measured in 7 s on CPU; nothing was trained or written"
    assert "carried on from 8 a worker" in lines[0]
    column = lines[0].index("100 steps")
    assert head.index("taken") + 5 == column - 2 and all(line[column - 2 : column] in ("  ", "") for line in lines)
    assert [line.split("  ")[0] for line in lines if line[0] != " "] == [
        "training",
        "evaluation",
        "total",
        "memory",
        "disk, RUN",
        "disk, DATA",
    ]
    assert "20 samples x assumed 53 evaluations" in next(line for line in lines if "  dopri5" in line)
    assert "40 samples x 4 evaluations" in next(line for line in lines if "  euler" in line)
    assert "1000 B an image, 32 at once" in lines[-3]


def test_totals_are_said_as_the_machine_is_and_as_if_it_were_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    said = estimated(monkeypatch, step_cpu_s=0.2, processes=1)
    evaluation = said.values["evaluation_s"]
    assert said.values["total_s"] == {
        "total": pytest.approx(TRAINING_S + evaluation),
        "on an idle machine": pytest.approx(TRAINING_S - 30 + evaluation),
    }
    assert "1 of 2 workers at work" in said.text() and "other work is in the way" in said.text()
    assert "on an idle machine" not in estimated(monkeypatch).text()


def test_bytes_of_a_source_are_those_of_its_shards(tmp_path: Path) -> None:
    source, settings = open_source("photos:?tiles=3"), Preparation(size=16)
    data, (size, words) = of_source(source, settings)
    manifest = write_shards(source, tmp_path, settings)
    written = sum(f.stat().st_size for f in tmp_path.rglob("*") if f.suffix in (".tar", ".npy"))
    assert size == pytest.approx(written, rel=0.15) and words == f"{manifest.images:,} pictures"
    prepared = of_folder(str(tmp_path), load_manifest(tmp_path))
    assert prepared.images == manifest.splits["train"].images <= data.images
    assert (prepared.shape, prepared.classes) == (data.shape, data.classes)
    with pytest.raises(DataError, match="no training images"):
        of_folder("x", manifest.model_copy(update={"splits": {}}))

"""Two tiny networks, trained here on OT and VP, compared from their rows to the page."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fm.data import Preparation, ShardedImages, open_source, write_shards
from fm.errors import UserError
from fm.files import read_json, write_json
from fm.metrics import estimate, load_features
from fm.metrics.distances import DISTANCES
from fm.pixels import to_pixels
from fm.recipe import Recipe, load, on_data, opened
from fm.records import Recorder
from fm.results import read_rows, write_row
from fm.side_by_side import side_by_side
from tasks import on_workers

FD = "fd_random_conv"
SAMPLES = 40


def pictures(folder: Path) -> Path:
    """Smooth pictures, no two alike."""
    generator = np.random.default_rng(0)
    (folder / "one").mkdir(parents=True)
    for i in range(60):
        coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((16, 16), Image.Resampling.BICUBIC).save(folder / "one" / f"{i}.png")
    return folder


def trained(run: Path, data: Path, path: str) -> Path:
    recipe = Recipe.load("tiny", ["training.total_images=192", f"path={path}"])
    with opened(run, recipe) as folder:
        on_data(folder, data, ShardedImages(data).manifest)
    on_workers.training({"recipe": recipe.model_dump(mode="json"), "data": str(data), "run": str(run)})
    return run


def measured(run: Path, data: Path) -> None:
    """Rows with what a comparison asks of them, and what dopri5 took at each checkpoint."""
    flow, features = load(run), load_features("random_conv")
    images = ShardedImages(data, "test")
    heldout = features(torch.from_numpy(images.gather(range(len(images)))).permute(0, 3, 1, 2))
    for solver, nfe in (("euler", 4), ("midpoint", 8)):
        drawn = features(to_pixels(flow.draw(SAMPLES, method=solver, nfe=nfe).x))
        group = torch.arange(SAMPLES) % 10
        value, low, high = estimate("fd", drawn, heldout)[:3]
        row = {"key": f"{solver}{nfe}", "method": flow.method, "path": flow.path.kind, "solver": solver, "nfe": nfe}
        row |= {"tolerance": None, "samples": SAMPLES, "seed": 0, "seconds": 1.0, "noise": "positions"}
        row |= {FD: value, f"{FD}_low": low, f"{FD}_high": high, f"{FD}_floor": 1.0, "nll_converged": None}
        row[f"{FD}_without"] = [DISTANCES["fd"](drawn[group != g], heldout) for g in range(10)]
        row |= flow.lineage | {"features": "random_conv", "features_weights": features.weights}
        write_row(run, row | {"reference_images": len(heldout)})
    recorder = Recorder(run / "records", "solving")
    for seen in (64, 128, 192):
        recorder.write(seen, 1.0, nfe=40 + seen // 64, tolerance=1e-3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """RUNs `ot` and `vp` of one DATA, both measured."""
    root = tmp_path_factory.mktemp("compared")
    data = root / "data"
    write_shards(open_source(str(pictures(root / "pictures"))), data, Preparation(size=16, holdout=0.4))
    found = [trained(root / path, data, path) for path in ("ot", "vp")]
    for run in found:
        measured(run, data)
    return SimpleNamespace(root=root, data=data, ot=str(found[0]), vp=str(found[1]))


def test_two_runs_become_tables_pictures_and_one_page(runs: Any, tmp_path: Path) -> None:
    said: list[str] = []
    training = len(ShardedImages(runs.data, "train"))
    made = side_by_side([runs.ot, runs.vp], tmp_path / "out", samples=30, say=said.append)
    assert made.notes == [] and [run.name for run in made.comparison.runs] == ["ot", "vp"]
    assert [(pair.quantity, str(pair.cell)) for pair in made.comparison.paired] == [(FD, "euler 4"), (FD, "midpoint 8")]
    names = {file.name for file in (tmp_path / "out" / "report").iterdir()}
    pictures = {"samples", "trajectories", "nearest-ot", "nearest-vp", f"nfe-{FD}", "nfe-over-training"}
    assert names == {*(f"{name}.png" for name in pictures), "table.csv", "paired.csv", "table.tex"}
    text = made.page.read_text()
    assert text.count("data:image/png;base64,") == 6 and "http" not in text
    assert "midpoint, NFE 8, seed 0" in text and f"{training} of {training}" in text
    assert "compare: ot, midpoint, NFE 8, cpu: 30 samples, 0 done" in said
    assert f"compare: random_conv of up to {training} images (split train), 0 done" in said


def test_swapped_folders_swap_the_verdict(runs: Any, tmp_path: Path) -> None:
    there = side_by_side([runs.ot, runs.vp], tmp_path / "one", samples=0).comparison.paired
    back = side_by_side([runs.vp, runs.ot], tmp_path / "other", samples=0).comparison.paired
    for one, other in zip(there, back, strict=True):
        assert one.difference is not None and other.difference is not None
        assert (one.difference, one.half, one.better) == (-other.difference, pytest.approx(other.half), other.better)
    assert any(pair.better for pair in there)
    assert not list((tmp_path / "one" / "report").glob("samples.png"))


def test_the_same_network_twice_draws_the_same_and_is_not_distinguishable(runs: Any, tmp_path: Path) -> None:
    twin = tmp_path / "twin"
    shutil.copytree(runs.ot, twin)
    made = side_by_side([runs.ot, str(twin)], tmp_path / "out", samples=24)
    assert {(pair.difference, pair.half, pair.better) for pair in made.comparison.paired} == {(0.0, 0.0, "")}
    one, other = (tmp_path / "out" / "report" / f"nearest-{name}.png" for name in ("ot", "twin"))
    assert one.read_bytes() == other.read_bytes()


def test_what_is_gone_is_left_out_with_a_sentence(runs: Any, tmp_path: Path) -> None:
    """Of one RUN the data, of another the checkpoints; the numbers are compared all the same."""
    homeless, bare = tmp_path / "homeless", tmp_path / "bare"
    for run in (homeless, bare):
        shutil.copytree(runs.vp, run)
    facts = read_json(homeless / "data.json")
    write_json(homeless / "data.json", facts | {"data": str(tmp_path / "nowhere")})
    shutil.rmtree(bare / "checkpoints")
    made = side_by_side([runs.ot, str(homeless), str(bare)], tmp_path / "out", samples=24)
    first, second = made.notes
    assert first.startswith(f"{homeless}: no nearest training images of it") and "nowhere" in first
    assert second.startswith(f"{bare}: no pictures of it")
    assert len(made.comparison.paired) == 4
    assert not (tmp_path / "out" / "report" / "nearest-homeless.png").exists()


def test_runs_that_cannot_be_compared_are_refused_before_anything_is_drawn(runs: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a RUN, whose report would be lost; choose another folder"):
        side_by_side([runs.ot, runs.vp], Path(runs.ot))
    unmeasured, other = tmp_path / "unmeasured", tmp_path / "other"
    for run in (unmeasured, other):
        shutil.copytree(runs.vp, run)
    shutil.rmtree(unmeasured / "evaluations")
    with pytest.raises(UserError, match="unmeasured: holds no rows to compare; evaluate it first"):
        side_by_side([runs.ot, str(unmeasured)], tmp_path / "out")
    for row in read_rows(other):
        write_row(other, row | {"features": "inception_clean"})
    with pytest.raises(UserError, match=r"was measured with features inception_clean, .* with random_conv"):
        side_by_side([runs.ot, str(other)], tmp_path / "out")
    assert not (tmp_path / "out").exists()

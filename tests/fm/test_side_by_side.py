"""Two tiny networks, trained here on OT and VP, compared from their rows to the page."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fm.cells import cells
from fm.comparing import BITS, Comparison
from fm.data import Preparation, ShardedImages, open_source, write_shards
from fm.errors import UserError
from fm.evaluation import converge, evaluate
from fm.files import read_json, write_json
from fm.metrics import load_features
from fm.recipe import Recipe, load
from fm.records import Recorder
from fm.reference import measure_reference
from fm.results import read_rows, write_row
from fm.side_by_side import side_by_side
from tests.trainings import train_here

FD = "fd_random_conv"
GRID = "[{solver = 'euler', nfe = 4}, {solver = 'midpoint', nfe = 8}]"
MEASURED = ("samples=20", "seeds=2", "nll_images=10", "error_images=2", "features=random_conv")
CHANGES = ["training.total_images=192", *(f"evaluation.{change}" for change in (f"grid={GRID}", *MEASURED))]


def pictures(folder: Path) -> Path:
    """Smooth pictures, no two alike."""
    generator = np.random.default_rng(0)
    (folder / "one").mkdir(parents=True)
    for i in range(80):
        coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((16, 16), Image.Resampling.BICUBIC).save(folder / "one" / f"{i}.png")
    return folder


def trained(run: Path, data: Path, path: str) -> Path:
    return train_here(run, data, Recipe.load("tiny", [*CHANGES, f"path={path}"]))


def measured(run: Path, data: Path) -> None:
    """Rows of every kind, two seeds each; and what dopri5 took at each checkpoint, as a training records it."""
    flow, features, settings = load(run), load_features("random_conv"), Recipe.load(run).evaluation
    training, heldout = (ShardedImages(data, split) for split in ("train", "test"))
    reference = measure_reference(training, heldout, features, settings, run.parent / "reference")
    converged = {seed: converge(flow, seed, 0, settings.error_images, reference.labels) for seed in (0, 1)}
    for cell in cells(settings):
        write_row(run, evaluate(flow, cell, features, reference, converged[cell.seed]))
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
    found = made.comparison.paired
    assert [(pair.quantity, str(pair.cell)) for pair in found] == [
        (quantity, cell) for quantity in (FD, BITS) for cell in ("euler 4", "midpoint 8")
    ]
    assert all(pair.seeds == (0, 1) and pair.half for pair in found[:2])
    names = {file.name for file in (tmp_path / "out" / "report").iterdir()}
    pictures = {"samples", "trajectories", "nearest-ot", "nearest-vp", f"nfe-{FD}", "error", "nfe-over-training"}
    assert names == {*(f"{name}.png" for name in pictures), "table.csv", "paired.csv", "table.tex"}
    text = made.page.read_text()
    assert text.count("data:image/png;base64,") == 7 and "http" not in text
    assert "midpoint, NFE 8, seed 0" in text and f"{training} of {training}" in text
    assert "compare: ot, midpoint, NFE 8, cpu: 30 samples, 0 done" in said
    assert f"compare: random_conv of up to {training} images (split train), 0 done" in said


def test_numbers_are_shown_and_written_before_anything_is_drawn(runs: Any, tmp_path: Path) -> None:
    happened: list[str] = []

    def show(comparison: Comparison) -> None:
        tables = sorted(file.name for file in (tmp_path / "out" / "report").iterdir())
        happened.append(f"{len(comparison.paired)} pairs, {', '.join(tables)}")

    side_by_side([runs.ot, runs.vp], tmp_path / "out", samples=24, say=happened.append, show=show)
    assert happened[0] == "4 pairs, paired.csv, table.csv, table.tex" and len(happened) > 1


def test_nearest_images_are_found_in_the_features_of_what_is_compared(runs: Any, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(runs.ot, other)
    for row in read_rows(other):
        write_row(other, row | {"key": f"{row['key']}-more", "features": "a_first_one", "nfe": 2})
    made = side_by_side([str(other), runs.vp], tmp_path / "out", samples=24)
    assert made.comparison.cells[0].features == "a_first_one"
    assert "Distances in the features of random_conv" in made.page.read_text()


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
    assert {pair.other for pair in made.comparison.paired} == {"homeless", "bare"}
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


def test_an_imported_network_takes_part_and_whose_images_are_shown_is_said(runs: Any, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    shutil.copytree(runs.vp, theirs)
    write_json(theirs / "data.json", read_json(theirs / "data.json") | {"imported": {"peer": "torchcfm"}})
    made = side_by_side([runs.ot, str(theirs)], tmp_path / "out", samples=24)
    assert made.notes == [f"{theirs}: was trained elsewhere; its nearest images are of the DATA it was measured on"]
    assert (tmp_path / "out" / "report" / "nearest-theirs.png").exists()

"""What a finished run of the whole pipeline leaves, what a second start does, and that its likelihood is honest."""

import json
import re
import tarfile
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fm.data import ShardedImages, verify
from fm.files import read_json
from fm.noise import words
from fm.recipe import Recipe, load
from fm.results import Row, read_rows


def test_run_and_data_are_laid_out_as_agreed(finished: Path) -> None:
    for name in ("recipe.json", "data.json", "records/train.jsonl", "report.html", "report/samples.png"):
        assert (finished / name).is_file(), name
    there = ["000000000960", "000000001920", "best.json"]
    assert [p.name for p in sorted((finished / "checkpoints").iterdir())] == there
    assert Recipe.load(finished) == Recipe.load("tiny")
    data = Path(read_json(finished / "data.json")["data"])
    assert data.parent == finished.parent / "data"
    assert verify(data).digest == read_json(finished / "data.json")["digest"]


def test_no_held_out_box_meets_a_training_box_of_the_same_photograph(finished: Path) -> None:
    boxes: dict[str, list[tuple[str, list[int]]]] = {"train": [], "test": []}
    for tar in (Path(read_json(finished / "data.json")["data"]) / "shards").glob("*.tar"):
        with tarfile.open(tar) as members:
            for member in members:
                if member.name.endswith(".json"):
                    facts = json.load(members.extractfile(member))  # type: ignore[arg-type]
                    boxes[facts["split"]].append((facts["photograph"], facts["box"]))
    assert len(boxes["train"]) > len(boxes["test"]) > 100
    for photograph in {name for name, _ in boxes["test"]}:
        train, test = (np.array([b for n, b in boxes[s] if n == photograph]) for s in ("train", "test"))
        left = np.maximum(train[:, None, :2], test[None, :, :2])
        right = np.minimum(train[:, None, 2:], test[None, :, 2:])
        assert not (left < right).all(-1).any(), photograph


def test_every_number_stands_beside_its_floor_and_its_lineage(finished: Path) -> None:
    rows = read_rows(finished)
    assert len(rows) == len(Recipe.load("tiny").evaluation.grid) + 1
    for row in rows:
        name = "fd_efficientnet_lite0_b7"
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        assert 0 < row[f"{name}_floor"] < row[name]
        assert {"weights", "data", "features_weights", "code", "threads", "seed", "solver", "nfe"} <= set(row)
        assert (row["bits_per_dim"] is not None) == row["nll_converged"]
    trained, untrained = (r for r in rows if r["solver"] == "euler")
    assert (trained["method"], untrained["method"]) == ("FM w/ OT", "untrained")
    assert trained[name] < untrained[name]
    (exact,) = (r for r in rows if r["solver"] == "dopri5")
    assert exact["nll_converged"] and exact["bits_per_dim"] < 7


def test_the_report_is_one_file_with_its_pictures(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:|https?://127\.0\.0\.1|#)", page), "refers to something outside itself"
    for name in ("samples", "data", "trajectory", "loss", "distance", "bits_per_dim"):
        with Image.open(finished / "report" / f"{name}.png") as picture:
            assert picture.width > 200
    for phrase in ("not converged", "floor", "untrained", "fm sample"):
        assert phrase in page


def test_the_library_in_three_lines(finished: Path) -> None:
    flow = load(finished)
    assert flow.sample(2, seed=0, method="midpoint", nfe=4).shape == (2, 3, 16, 16)


@pytest.mark.timeout(240)
def test_a_second_start_does_nothing_again(finished: Path, command: Any) -> None:
    def times() -> dict[Path, int]:  # of all but the note of who is at work there
        files = (file for file in finished.rglob("*") if file.is_file() and file.name != "session.json")
        return {file: file.stat().st_mtime_ns for file in files}

    before = times()
    done = command("pipeline", "photos:", "runs/tiny", "--preset", "tiny", "--json", cwd=finished.parent.parent)
    assert done.returncode == 0, done.stderr
    for stage in ("prepare", "train", "evaluate", "report"):
        assert f"{stage}: unchanged (" in done.stdout + done.stderr, stage
    assert times() == before
    assert json.loads(done.stdout.splitlines()[-1])["rows"] == read_rows(finished)


def test_a_plan_of_a_finished_run_names_what_changed_and_a_late_start_takes_what_is_there(
    finished: Path, command: Any
) -> None:
    def start(*options: str) -> Any:
        words = ("pipeline", "photos:", "runs/tiny", "--preset", "tiny", "--json", *options)
        return command(*words, cwd=finished.parent.parent)

    def plan(*options: str) -> dict[str, tuple[str, str]]:
        done = start("--dry-run", *options)
        return {step["stage"]: (step["does"], step["why"]) for step in json.loads(done.stdout)["stages"]}

    assert {does for does, _ in plan().values()} == {"unchanged"}
    more = plan("--set", "evaluation.samples=50")
    assert more["evaluate"] == ("runs", "3 of 4 cells to measure: evaluation.samples 40, now 50")
    assert more["train"][0] == "unchanged" and more["report"] == ("runs", "its rows are measured first")
    refused = start("--dry-run", "--set", "data.seed=5")
    assert refused.returncode == 2 and "trained on other data (data.seed 0, now 5)" in refused.stderr
    late = start("--from", "report")
    assert late.returncode == 0 and "report: unchanged (" in late.stderr
    assert not re.search("(prepare|train|evaluate): (unchanged|to do)", late.stderr)


def pictures(folder: Path, kind: str) -> Path:
    """120 pictures of 16 px in two classes: uniform noise, or one colour each."""
    folder.mkdir()
    raw = words(0, kind, np.arange(120), 16 * 16 * 3).numpy().astype(np.uint8).reshape(120, 16, 16, 3)
    for i, (name, pixels) in enumerate(product(("a", "b"), raw[:60])):
        (folder / name).mkdir(exist_ok=True)
        pixels = raw[i] if kind == "noise" else np.broadcast_to(raw[i, :1, :1], (16, 16, 3))
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / name / f"{i}.png")
    return folder


def exact(run: Path) -> Row:
    (row,) = (r for r in read_rows(run) if r["solver"] == "dopri5" and r["method"] != "untrained")
    return row


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_noise_costs_eight_bits_and_one_colour_less_than_photographs(
    finished: Path, command: Any, tmp_path: Path
) -> None:
    grid = 'evaluation.grid=[{solver="dopri5", tolerance=1e-3, samples=20}]'
    changes = [
        "training.total_images=1920",
        "data.holdout=0.3",
        "evaluation.samples=30",
        "evaluation.reference_images=30",
        grid,
    ]

    def run(kind: str) -> Any:
        source, out = str(pictures(tmp_path / kind, kind)), str(tmp_path / f"run-{kind}")
        options = ["--preset=tiny", "--workers=1", *(f"--set={c}" for c in changes)]
        return command("pipeline", source, out, *options, cwd=tmp_path, limit_s=500)

    with ThreadPoolExecutor(2) as both:  # a worker each
        for done in both.map(run, ("noise", "colour")):
            assert done.returncode == 0, done.stderr[-2000:]
    noise, colour = exact(tmp_path / "run-noise"), exact(tmp_path / "run-colour")
    assert noise["nll_converged"] and noise["bits_per_dim"] >= 7.97  # below 8 is impossible
    assert colour["nll_converged"] and colour["bits_per_dim"] < exact(finished)["bits_per_dim"]
    assert len(ShardedImages(read_json(tmp_path / "run-noise" / "data.json")["data"], "test")) >= 20

import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image

from fm.checkpoints import newest
from fm.data import Preparation, load_manifest, open_source, write_shards
from fm.errors import Diverged
from fm.facts import on_data
from fm.files import read_json
from fm.recipe import Recipe, load, opened
from fm.records import read
from fm.runs import pulled
from tasks import on_workers
from tests.drills import ranks


def prepared(tmp_path: Path, *changes: str, holdout: float = 0.1) -> dict[str, Any]:
    """What a worker is told, of a training on forty pictures."""
    generator = np.random.default_rng(0)
    for i in range(40):
        (tmp_path / "pictures" / f"class-{i % 2}").mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        picture.save(tmp_path / "pictures" / f"class-{i % 2}" / f"{i}.png")
    recipe = Recipe.load("tiny", ["training.total_images=192", "training.save_images=64", *changes])
    data = tmp_path / "data"
    manifest = write_shards(open_source(str(tmp_path / "pictures")), data, Preparation(size=16, holdout=holdout))
    with opened(tmp_path / "run", recipe) as folder:
        on_data(folder, data, manifest)
    return {"recipe": recipe.model_dump(mode="json"), "data": str(data), "run": str(folder)}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """RUN after the training of one worker, without Ray."""
    config = prepared(tmp_path)
    on_workers.training(config)
    return Path(config["run"])


def test_a_training_leaves_records_a_checkpoint_and_what_its_samples_cost(run: Path) -> None:
    assert [row["images_seen"] for row in read(run / "records")] == [64, 128, 192]
    saved = newest(run)
    assert saved is not None and saved.images_seen == 192
    cost = read(run / "records", name="solving")
    assert [row["images_seen"] for row in cost] == [64, 128, 192]
    assert all(row["nfe"] >= 8 and (row["solver"], row["tolerance"]) == ("dopri5", 1e-3) for row in cost)


def test_a_file_tells_to_leave_and_the_next_start_goes_on_without_gap_or_double(tmp_path: Path) -> None:
    config = prepared(tmp_path)
    leave = Path(config["run"]) / ".ray" / "leave"
    leave.parent.mkdir()
    leave.touch()
    on_workers.training(config)
    leave.unlink()
    saved = newest(config["run"])
    assert saved is not None and saved.images_seen == 0
    on_workers.training(config)
    records = Path(config["run"]) / "records"
    rows = read(records)
    assert [row["images_seen"] for row in rows] == [64, 128, 192] and rows[0]["loss_t5"] > 0
    system = read(records, name="system-0")
    assert [row["images_seen"] for row in system] == [64, 128, 192] and system[0]["cpu_utilization_percentage"] > 0
    (start,) = read(records, after=-1, name="starts")
    assert start["restored"] == "resumed at 0 images" and start["micro_batch_images"] == 64
    assert (start["threads"], start["device"]) == (1, "cpu") and rows[0]["peak_memory_mib"] > 50
    grids = sorted(path.name for path in (records.parent / "samples").iterdir())
    assert grids == [f"seen-{seen:012d}.png" for seen in (64, 128, 192)]
    assert start["averages"] == {"ema": "half-life 500 kimg, 0.999911 a step from 5000 kimg on"}


def test_a_grid_that_a_killed_worker_did_not_draw_is_drawn_by_the_next_start(tmp_path: Path) -> None:
    config = prepared(tmp_path, "training.total_images=128")
    on_workers.training(config)
    run = Path(config["run"])
    grid, before = run / "samples" / f"seen-{64:012d}.png", read(run / "records", name="solving")
    drawn = grid.read_bytes()
    shutil.rmtree(run / "checkpoints" / f"{128:012d}")
    shutil.rmtree(run / "samples")
    (run / "records" / "solving.jsonl").unlink()
    on_workers.training(config)
    assert grid.read_bytes() == drawn
    assert [row | {"time": 0} for row in read(run / "records", name="solving")] == [row | {"time": 0} for row in before]


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_data_at_an_address_train_the_same_weights(tmp_path: Path, encoding: str, monkeypatch: Any) -> None:
    config = prepared(tmp_path)
    on_workers.training(config)
    here, address = tmp_path / "here", f"memory://{tmp_path.name}"
    manifest = write_shards(open_source(str(tmp_path / "pictures")), here, Preparation(size=16, encoding=encoding))
    fsspec.filesystem("memory").put(str(here), address, recursive=True)
    shutil.rmtree(here)
    monkeypatch.setenv("FM_CACHE", str(tmp_path / "cache"))
    with opened(tmp_path / "far", Recipe.load(Path(config["run"]))) as run:
        on_data(run, address, manifest)
    on_workers.training(config | {"data": address, "run": str(run)})
    assert read_json(run / "data.json")["data"] == address
    near, far = newest(config["run"]), newest(run)
    assert near is not None and far is not None and near.weights == far.weights
    assert [f.suffix for f in (tmp_path / "cache").rglob("train-000000.*")].count(
        {"raw": ".tar", "png": ".raw"}[encoding]
    )


def test_a_divergence_is_recorded_with_its_images_and_the_last_good_checkpoint(tmp_path: Path) -> None:
    """The rate is raised after 128 images, beyond what any weights stand."""
    config = prepared(tmp_path, "training.total_images=256", "training.save_images=128")
    rates = {0: 1e-3, 64: 1e-3, 128: 1e30, 192: 1e-3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fm.training.Training.rate", lambda self, images_seen: rates[images_seen])
        with pytest.raises(Diverged, match=r"in the step after 192 images.*the checkpoint at 128 images is unharmed"):
            on_workers.training(config)
    (row,) = read(Path(config["run"]) / "records", name="diverged")
    assert (row["images_seen"], row["checkpoint"], len(row["indices"])) == (192, 128, 64)


def test_five_kills_of_a_rank_change_no_bit(tmp_path: Path) -> None:
    data, small = ranks.prepared(tmp_path / "data"), ("model=mlp", "model.width=32", "training.batch_images=50")
    changes = (*small, "training.total_images=5000", "training.save_images=250", "training.warmup_images=100")
    whole = ranks.ranks(tmp_path / "whole", data, 3, changes)
    whole.start()
    result = ranks.killed(ranks.ranks(tmp_path / "killed", data, 3, changes), 1, whole.finish())
    assert result.passed, result


def test_a_training_at_an_address_goes_on_on_another_machine_to_the_same_weights(
    tmp_path: Path, s3: Any, monkeypatch: Any
) -> None:
    config = prepared(tmp_path)
    on_workers.training(config)
    address = f"s3://bucket/{tmp_path.name}/far"
    monkeypatch.setenv("FM_CACHE", str(tmp_path / "driver"))
    with opened(address, Recipe.load(Path(config["run"]))) as driver:
        on_data(driver, config["data"], load_manifest(config["data"]))
    for machine, stop in (("one", 128), ("other", 192)):
        monkeypatch.setenv("FM_CACHE", str(tmp_path / machine))
        recipe = config["recipe"] | {"training": config["recipe"]["training"] | {"total_images": stop}}
        with monkeypatch.context() as patch:
            patch.setattr(Recipe, "training_values", lambda self: {})  # a shorter training is another
            on_workers.training({"recipe": recipe, "data": config["data"], "run": address})
        shutil.rmtree(tmp_path / machine)
    monkeypatch.setenv("FM_CACHE", str(tmp_path / "third"))
    there, here = load(address), newest(config["run"])
    assert here is not None and there.lineage["weights"] == here.weights
    records = pulled(address) / "records"
    assert [row["images_seen"] for row in read(records)] == [64, 128, 192]
    restored = [row["restored"] for row in read(records, after=-1, name="starts")]
    assert restored == ["started at 0 images", "resumed at 128 images"]
    assert len(list((records.parent / "samples").iterdir())) == 3

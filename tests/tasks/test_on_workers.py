from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fm.checkpoints import newest
from fm.data import Preparation, open_source, write_shards
from fm.errors import CheckpointError
from fm.evaluation import cells
from fm.recipe import Recipe, on_data, opened
from fm.records import read
from tasks import on_workers


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """RUN after the training of one worker on forty pictures, without Ray."""
    generator = np.random.default_rng(0)
    for i in range(40):
        (tmp_path / "pictures" / f"class-{i % 2}").mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        picture.save(tmp_path / "pictures" / f"class-{i % 2}" / f"{i}.png")
    changes = ["training.total_images=192", "training.save_images=64", "training.report_images=64"]
    recipe = Recipe.load("tiny", changes)
    data = tmp_path / "data"
    manifest = write_shards(open_source(str(tmp_path / "pictures")), data, Preparation(size=16))
    with opened(tmp_path / "run", recipe) as folder:
        on_data(folder, data, manifest)
        on_workers.training({"recipe": recipe.model_dump(mode="json"), "data": str(data), "run": str(folder)})
        return folder


def test_a_training_leaves_records_and_a_checkpoint_and_is_judged_by_its_own_weights_only(run: Path) -> None:
    assert [row["images_seen"] for row in read(run / "records")] == [64, 128, 192]
    saved = newest(run)
    assert saved is not None and saved.images_seen == 192
    settings = Recipe.load(run).evaluation
    other = on_workers.Job("key", run, settings, cells(settings)[0], "0" * 64)
    with pytest.raises(CheckpointError, match="newer weights than those to be measured"):
        on_workers.row(other)
    assert not list((run / "evaluations").glob("*.json"))

"""RUN/data.json binds a RUN to what it was trained on, and says where that lies now."""

import json
from pathlib import Path

import pytest

from fm.data import Preparation
from fm.data.manifest import Finished, Manifest, Origin, Shard, make_manifest
from fm.data.tally import Tally
from fm.errors import SettingsError, UserError
from fm.facts import facts_of, on_data
from fm.recipe import Recipe


def manifest_of(images: int) -> Manifest:
    """A data set of one shard, whose files nobody reads."""
    shard = Shard(name="train-000000", images=images, bytes=1, sha256="", index_sha256="", sidecars_sha256=())
    finished = Finished(inputs="", split="train", shard=shard, tally=Tally(pixels=1), rejected=())
    origin = Origin(source="photos:", digest="", inputs="", planned={"train": images}, missing={})
    return make_manifest([origin], Preparation(size=16), (), [finished])


@pytest.mark.parametrize("text", ["[1]", '"x"', '{"a": 1}', "null"])
def test_a_file_that_is_not_ours_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(UserError, match=r"data.json: is not what was written there; restore it from a copy"):
        facts_of(tmp_path)


def test_a_run_notes_its_data_and_their_order(tmp_path: Path) -> None:
    settings = Recipe.load("tiny").training
    manifest = manifest_of(5)
    order = settings.order([5]).fingerprint()
    on_data(tmp_path, tmp_path / "data", manifest, order)
    on_data(tmp_path, tmp_path / "elsewhere", manifest)  # an evaluation, which asks for no order
    noted = json.loads((tmp_path / "data.json").read_text())
    assert noted["order"] == order and noted["data"].endswith("elsewhere") and noted["digest"] == manifest.digest
    blocks = Recipe.load("tiny", ["training.window_shards=2"])
    assert blocks.training.order([5]).fingerprint().startswith("blocks of 2 ") and order.startswith("full ")
    assert blocks.training_digest() != Recipe.load("tiny").training_digest()


def test_drawn_images_stay_noted_when_it_is_judged_again(tmp_path: Path) -> None:
    on_data(tmp_path, tmp_path / "data", manifest_of(5), "full 1", {"weights": "a", "digest": "d"})
    on_data(tmp_path, tmp_path / "elsewhere", manifest_of(5))
    assert facts_of(tmp_path)["drawn"] == {"weights": "a", "digest": "d"}


def test_another_order_of_the_data_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    manifest = manifest_of(5)
    on_data(tmp_path, tmp_path, manifest, "full 1")
    (tmp_path / "checkpoints" / "000000000064").mkdir(parents=True)
    with pytest.raises(SettingsError, match="was trained in the order full 1, not full 2"):
        on_data(tmp_path, tmp_path, manifest, "full 2")
    assert facts_of(tmp_path)["order"] == "full 1"

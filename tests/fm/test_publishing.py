"""A network leaves its RUN as a folder of its own: loads the same, is whole or absent, and another begins with it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import fm
from fm.checkpoints import INITIAL, newest
from fm.errors import CheckpointError, SettingsError, UserError
from fm.facts import check_trainable
from fm.files import read_json, sha256
from fm.publishing import CARD, card, note_cited, publish, published_weights
from fm.recipe import Recipe
from fm.records import read
from tests.fm.test_comparing import a_row
from tests.fm.test_side_by_side import pictures
from tests.trainings import train_here

TRAINING = ["training.total_images=128", "training.save_images=64"]


def train(run: Path, data: Path, *changes: str, initial: Path | None = None) -> Path:
    return train_here(run, data, Recipe.load("tiny", [*TRAINING, *changes]), initial)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """DATA, and a RUN trained on it."""
    from fm.data import Preparation, open_source, write_shards

    root = tmp_path_factory.mktemp("published")
    write_shards(open_source(str(pictures(root / "pictures"))), root / "data", Preparation(size=16, holdout=0.3))
    return root / "data", train(root / "run", root / "data")


def test_a_published_network_is_the_same_in_a_folder_of_its_own(made: Any, tmp_path: Path) -> None:
    _, run = made
    saved = newest(run)
    assert saved is not None
    folder = publish(run, saved.weights, tmp_path / "v1", "photos", [a_row()])
    assert published_weights(folder) == saved.weights and published_weights(run) == ""
    same = fm.load(folder).sample(4, seed=3, method="euler", nfe=4)
    assert torch.equal(same, fm.load(run).sample(4, seed=3, method="euler", nfe=4))
    assert fm.load(folder).lineage["weights"] == saved.weights
    assert sorted(file.suffix for file in folder.rglob("*") if file.is_file()) == [
        *[".json"] * 3,
        ".md",
        ".safetensors",
    ]
    told = (folder / CARD).read_text()
    assert f"data: {read_json(run / 'data.json')['digest']}" in told and "fd_x" in told and saved.weights in told
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    assert publish(run, saved.weights, folder, "photos", []) == folder  # it stands already
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before
    with pytest.raises(SettingsError, match="without an optimiser"):
        check_trainable(folder)


def test_other_weights_are_neither_found_nor_written_over(made: Any, tmp_path: Path) -> None:
    _, run = made
    weights = newest(run).weights  # type: ignore[union-attr]
    with pytest.raises(CheckpointError, match="no whole checkpoint of weights"):
        publish(run, "0" * 64, tmp_path / "none", "photos", [])
    assert list(tmp_path.iterdir()) == []
    folder = publish(run, weights, tmp_path / "v1", "photos", [])
    facts = read_json(folder / "data.json")
    facts["imported"]["weights"] = "1" * 64
    (folder / "data.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match="is there already, with other weights"):
        publish(run, weights, folder, "photos", [])


def test_a_training_begins_with_published_weights_and_is_bound_to_them(made: Any, tmp_path: Path) -> None:
    data, run = made
    weights = newest(run).weights  # type: ignore[union-attr]
    folder = publish(run, weights, tmp_path / "v1", "photos", [])
    change = f"training.initial_weights={weights}"
    # Without a step that counts, the network is the one that it began with.
    still = train(tmp_path / "still", data, change, "training.total_images=0", initial=folder)
    assert sha256(still / INITIAL) == weights == newest(still).weights  # type: ignore[union-attr]
    further = train(tmp_path / "further", data, change, initial=folder)
    (start,) = read(further / "records", after=-1, name="starts")
    assert start["restored"] == f"started at 0 images with the weights {weights[:16]}"
    assert newest(further).weights not in (weights, newest(run).weights)  # type: ignore[union-attr]
    with pytest.raises(SettingsError, match=r"another recipe \(training.initial_weights"):
        train(further, data)
    with pytest.raises(CheckpointError, match=r"does not hold the weights .*`fm retrain` puts them there"):
        train(tmp_path / "nothing", data, change)


def test_a_coupling_that_images_keep_begins_anew_with_published_weights(made: Any, tmp_path: Path) -> None:
    """As `fm retrain` begins from a champion that was trained with one."""
    data, run = made
    weights = newest(run).weights  # type: ignore[union-attr]
    folder = publish(run, weights, tmp_path / "v1", "photos", [])
    changes = f"training.initial_weights={weights}", "training.coupling=persistent_ot"
    further = train(tmp_path / "further", data, *changes, initial=folder)
    (start,) = read(further / "records", after=-1, name="starts")
    assert start["restored"] == f"started at 0 images with the weights {weights[:16]}"


def test_fresh_weights_keep_the_digests_that_they_had() -> None:
    recipe = Recipe.load("tiny")
    assert "initial_weights" not in recipe.training_values()["training"]
    begun = Recipe.load("tiny", [f"training.initial_weights={'a' * 64}"])
    assert (
        len({one.digest() for one in (recipe, begun)}) == len({one.training_digest() for one in (recipe, begun)}) == 2
    )


def test_nothing_in_a_card_is_markup_that_came_with_data() -> None:
    facts = {"images_seen": 1, "source": "<script>alert(1)</script> | `x`\n# big"}
    told = card("a<b>", Recipe.load("tiny"), facts, (3, 16, 16), [a_row(method="FM <i>")])
    assert "<" not in told.replace("&lt;", "") and "\n# big" not in told and "&lt;script&gt;" in told


def test_a_card_says_how_the_network_draws() -> None:
    facts, rows = {"images_seen": 1, "source": "photos:"}, [a_row()]
    plain, told = (card("a", Recipe.load(name), facts, (3, 64, 64), rows) for name in ("tiny", "superres-mini"))
    assert "small" not in plain and "nfe=32)" in plain
    assert "small_picture('small.png', 16)" in told and "nfe=32, low=low)" in told


def test_what_a_registry_names_is_noted_once(tmp_path: Path) -> None:
    for weights, version in (("a" * 64, "1"), ("a" * 64, "1"), ("b" * 64, "2")):
        note_cited(tmp_path, weights, "photos", version)
    kept = read_json(tmp_path / "champion.json")["weights"]
    assert [(one["weights"][0], one["version"]) for one in kept] == [("a", "1"), ("b", "2")]

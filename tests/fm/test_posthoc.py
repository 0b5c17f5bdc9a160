"""Averages of a RUN made afterwards: networks of their own, made once, of the states that were averaged."""

from pathlib import Path

import pytest
import torch

import fm
from fm.checkpoints import load_weights, newest, read_file
from fm.data import Preparation, open_source, write_shards
from fm.errors import CheckpointError, SettingsError
from fm.files import read_json
from fm.posthoc import LENGTHS as DEFAULT
from fm.posthoc import made, planned, sources
from fm.recipe import Recipe
from tests.fm.test_side_by_side import pictures
from tests.trainings import train_here

CHANGES = ["training.total_images=640", "training.save_images=64", "training.keep_every_images=64"]
LENGTHS = [*CHANGES, "training.ema_lengths=[0.05, 0.1]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("posthoc")
    write_shards(open_source(str(pictures(root / "pictures"))), root / "data", Preparation(size=16, holdout=0.3))
    return train_here(root / "run", root / "data", Recipe.load("tiny", LENGTHS))


def test_a_length_that_was_kept_comes_out_as_it_was_and_others_between(run: Path, tmp_path: Path) -> None:
    last = newest(run)
    assert last is not None and len(sources(run, last)) == 2 * 10
    found = {length: made(run, last, length, how) for length, how in planned(run, last, (0.05, 0.07, 0.1)).items()}
    weights = {length: load_weights(one.folder)[0] for length, one in found.items()}
    for length in (0.05, 0.1):
        for name, value in read_file(last, f"ema_power_{length:g}").items():
            torch.testing.assert_close(weights[length][name], value, rtol=1e-5, atol=1e-6)
    how, name = planned(run, last, (0.07,))[0.07], next(iter(weights[0.07]))
    parts = zip(how.coefficients, sources(run, last), strict=True)
    due = sum(coefficient * read_file(one.checkpoint, one.file)[name].double() for coefficient, one in parts)
    torch.testing.assert_close(weights[0.07][name], due.float(), rtol=0, atol=0)
    folder = found[0.07].folder
    assert folder == run / "averages" / "000000000640" / "0.07" and 0 < found[0.07].error < 0.05
    assert read_json(folder / "data.json")["imported"]["ema_length"] == 0.07
    assert "ema_length: 0.07" in (folder / "README.md").read_text()
    assert fm.load(folder).sample(2, nfe=2).shape == (2, 3, 16, 16)
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    assert made(run, last, 0.07, planned(run, last, (0.07,))[0.07]).folder == folder
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before


def test_without_lengths_those_are_made_that_can_be(run: Path) -> None:
    last = newest(run)
    assert last is not None
    found = planned(run, last)
    assert {0.03, 0.05, 0.1, 0.2} <= set(found) < set(DEFAULT) and all(how.error <= 0.2 for how in found.values())


def test_what_cannot_be_made_is_refused(run: Path, tmp_path: Path) -> None:
    last = newest(run)
    assert last is not None
    with pytest.raises(SettingsError, match=r"--lengths: 0\.006 cannot be made of what RUN kept: the profile would be"):
        planned(run, last, (0.05, 0.006))
    with pytest.raises(CheckpointError, match=r"no weights .ema_power_0\.2."):
        read_file(last, "ema_power_0.2")
    other = tmp_path / "other"
    other.mkdir()
    (other / "recipe.json").write_text(Recipe.load("tiny", CHANGES).model_dump_json())
    with pytest.raises(SettingsError, match="kept no averages of which others could be made"):
        planned(other, last, (0.05,))

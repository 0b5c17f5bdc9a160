import json
from pathlib import Path

import pytest

from flows.commands import stages
from flows.commands.answered import tell
from fm.data import Preparation, open_source, write_shards
from tests.fm.estimating.test_estimate import found


def test_values_are_told_to_people_and_to_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    values = {"train": 40, "digest": "abc"}
    tell(values, as_json=True)
    assert json.loads(capsys.readouterr().out) == values
    tell(values, as_json=False)
    assert capsys.readouterr().out == "train        40\ndigest       abc\n"


def test_an_estimate_is_a_table_or_json_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fm.estimating.estimate.measure", lambda recipe, data, workers: found(recipe, workers))
    write_shards(open_source("photos:?tiles=3"), tmp_path / "data", Preparation(size=16))
    before = sorted(tmp_path.rglob("*"))
    stages.train("tiny", str(tmp_path / "data"), estimate=True)
    assert "30 steps of 64 images" in capsys.readouterr().out
    stages.pipeline("photos:?tiles=3", tmp_path / "run", "tiny", estimate=True, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["training_s"] == 15 and told["disk_bytes"]["DATA"] > 10_000
    assert sorted(tmp_path.rglob("*")) == before

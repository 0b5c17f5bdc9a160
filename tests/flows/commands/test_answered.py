import json
from pathlib import Path

import pytest
import typer

from flows.commands import stages
from flows.commands.answered import tell
from fm.data import Preparation, open_source, write_shards
from fm.errors import SettingsError
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
    monkeypatch.setattr("fm.estimating.estimate.measure", lambda recipe, data, workers, need, say: found(need))
    write_shards(open_source("photos:?tiles=3"), tmp_path / "data", Preparation(size=16))
    before = sorted(tmp_path.rglob("*"))
    stages.train("tiny", str(tmp_path / "data"), estimate=True)
    assert "30 steps of 64 images" in capsys.readouterr().out
    stages.pipeline("photos:?tiles=3", tmp_path / "run", "tiny", estimate=True, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (
        told["training_s"] == pytest.approx(15 + 2 * 16 * 53 * 0.01)
        and told["disk_bytes"]["DATA"] > 10_000
        and told["name"] == "tiny"
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_what_does_not_fit_is_refused_with_what_is_known_without_running(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fm.estimating.estimate.free_bytes", lambda device, workers: 10**6)
    for as_json in (False, True):
        with pytest.raises(SettingsError, match=r"at once, 0.0 GiB are free for each of 2 workers"):
            stages.pipeline("photos:?tiles=3", tmp_path / "run", "tiny", estimate=True, as_json=as_json)
    head, flops, sampling, values = capsys.readouterr().out.splitlines()
    assert head.startswith("tiny: 16 x 16 pixels") and "not measured" in flops and "drawn at once" in sampling
    assert json.loads(values)["parameters"] == 705_859


def test_an_estimate_that_is_stopped_says_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fm.estimating.estimate.measure", stopped)
    with pytest.raises(typer.Exit) as left:
        stages.pipeline("photos:?tiles=3", tmp_path / "run", "tiny", estimate=True)
    assert left.value.exit_code == 130 and capsys.readouterr().err == "stopped: nothing was trained or written\n"

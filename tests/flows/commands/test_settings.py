import json

import pytest

from flows.commands.settings import lines, settings
from fm import presets
from fm.errors import SettingsError
from fm.recipe import Recipe


def test_settings_are_listed_with_the_preset_s_values(capsys: pytest.CaptureFixture[str]) -> None:
    settings("training.p", preset="imagenet64")
    assert capsys.readouterr().out == (
        "training.precision  bf16  fp32 | tf32 | bf16  "
        "of the network's arithmetic; weights, time and loss stay fp32; tf32 is fp32 on a CPU\n"
    )
    settings("path", changes=["path=vp"], as_json=True)
    keys = [one["key"] for one in json.loads(capsys.readouterr().out)]
    assert keys == ["path.kind", "path.beta_min", "path.beta_max"]
    with pytest.raises(SettingsError, match="no setting begins with 'traning'; did you mean 'training'"):
        settings("traning")


@pytest.mark.parametrize("preset", presets.names())
def test_what_is_listed_can_be_set(capsys: pytest.CaptureFixture[str], preset: str) -> None:
    settings("", preset, as_json=True)
    keys = [one["key"] for one in json.loads(capsys.readouterr().out)]
    settings("", preset)
    lines = capsys.readouterr().out.splitlines()
    values = [line.split("  ", 1)[1].lstrip().split("  ")[0] for line in lines]
    changes = [f"{key}={value}" for key, value in zip(keys, values, strict=True)]
    assert Recipe.load("tiny", changes) == Recipe.load(preset)


def test_on_a_narrow_terminal_what_is_said_stands_below_its_setting() -> None:
    rows = [("training.seed", "0", "whole number from 0", "of all noise"), ("name", "demo", "text", "a word " * 20)]
    assert list(lines(rows[:1], 100)) == ["training.seed  0  whole number from 0  of all noise"]
    assert next(lines(rows, 0)) == "training.seed  0     whole number from 0  of all noise"  # no terminal
    narrow = list(lines(rows, 100))
    assert narrow[:3] == ["training.seed = 0", "    whole number from 0: of all noise", "name = demo"]
    assert len(narrow) == 5 and max(map(len, narrow)) <= 100

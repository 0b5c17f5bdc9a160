import json

import pytest

from flows.commands.settings import settings
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

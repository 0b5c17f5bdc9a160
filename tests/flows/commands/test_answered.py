import json

import pytest

from flows.commands.answered import tell


def test_values_are_told_to_people_and_to_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    values = {"train": 40, "digest": "abc"}
    tell(values, as_json=True)
    assert json.loads(capsys.readouterr().out) == values
    tell(values, as_json=False)
    assert capsys.readouterr().out == "train        40\ndigest       abc\n"

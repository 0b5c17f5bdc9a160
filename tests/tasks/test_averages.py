"""Averages as the flow makes them: each said with its profile's error."""

from pathlib import Path

import pytest

from fm.checkpoints import newest
from fm.errors import SettingsError
from tasks import watching
from tasks.averages import average
from tests.fm.test_posthoc import run  # noqa: F401  a fixture


def test_each_average_is_made_and_said(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    last, said = newest(run), list[str]()
    assert last is not None
    monkeypatch.setattr(watching, "say", said.append)
    made = average.fn(run, last, (0.05, 0.08))
    assert [one.length for one in made] == [0.05, 0.08] and all(newest(one.folder) for one in made)
    assert said[0].startswith("average: length 0.05, its profile 0.0% off") and str(made[1].folder) in said[1]
    with pytest.raises(SettingsError, match="cannot be made of what RUN kept"):
        average.fn(run, last, (0.006,))
    assert len(average.fn(run, last, ())) >= 4

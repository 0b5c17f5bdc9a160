from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from fm.errors import UserError


def failed(*arguments: str) -> UserError:
    done = CliRunner().invoke(app, list(arguments))
    assert isinstance(done.exception, UserError), done.output
    return done.exception


def test_what_cannot_be_is_said_before_a_service_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "'sratch' is nothing to begin with; take champion or scratch" in str(
        failed("retrain", "data", "--model", "m", "--begin", "sratch")
    )
    assert str(failed("retrain", "data", "--model", "m")).startswith("data")
    assert "no training here" in str(failed("promote", "runs/none", "--model", "m"))
    assert "take letters" in str(failed("retrain", "data", "--model", "a/b"))
    assert "take letters" in str(failed("promote", "runs/none", "--model", "a/b"))
    assert "take letters" in str(failed("rollback", "a/b"))
    assert list(tmp_path.iterdir()) == []

import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace

import pytest

from flows.commands import stages


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "OUT: is missing"),
        ([".", "--add"], "no prepared data set here"),  # the folder it runs in is an OUT
        (
            ["out", "--add", "--size", "64", "--low-size", "8"],
            "--add: keeps the settings .* --size, --low-size cannot",
        ),
    ],
)
def test_what_prepare_refuses_before_it_starts(
    tmp_path: Path, command: Callable[..., CompletedProcess[str]], words: list[str], says: str
) -> None:
    done = command("prepare", "photos:", *words, cwd=tmp_path)
    assert done.returncode == 2 and re.search(says, done.stderr), done.stderr
    assert not list(tmp_path.iterdir())


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    tmp_path: Path, command: Callable[..., CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "PREFECT_HOME", "FM_STATE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    words = ["pipeline", "photos:?tiles=9", "runs/new", "--preset", "tiny", "--dry-run"]
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.splitlines()
    assert re.match(r"prepare +would run +nothing is finished in .*/data/photos-16-[0-9a-f]{16}$", first)
    assert [line.split()[0] for line in others] == ["train", "evaluate", "report"]
    assert "would run  starts at 0 images seen" in others[0]
    late = command(*words, "--from", "evaluate", cwd=tmp_path)
    assert late.returncode == 2 and re.search("prepare has not left here .* start at the beginning", late.stderr)
    assert "did you mean 'train'" in command(*words, "--from", "trian", cwd=tmp_path).stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("left", [KeyboardInterrupt(), SystemExit(143)])
def test_a_command_that_a_signal_ends_says_what_goes_on(
    left: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Signals of real commands: tests/infra/test_local.py and the drills."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    up = SimpleNamespace(environment=dict)
    monkeypatch.setattr(stages.local, "embedded", lambda *_: nullcontext(up))
    with pytest.raises(type(left)), stages.services(None):
        raise left
    assert capsys.readouterr().err.endswith("stopped: what is done is kept, and the same command goes on\n")

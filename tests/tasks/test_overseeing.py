import json
import time
from pathlib import Path

import pytest

from fm.errors import SettingsError, UserError
from tasks.overseeing import Overseer


def test_lines_losses_and_what_the_user_must_mend_are_heard(tmp_path: Path) -> None:
    said: list[str] = []
    told: list[str] = []
    scratch, logs = tmp_path / ".ray", tmp_path / "logs"
    for folder in (scratch, logs):
        folder.mkdir()
    overseer = Overseer(tmp_path, scratch, 0, said.append, told.append)
    (logs / "rank-1.log").write_text("one\nno end")
    (scratch / "loss-1.json").write_text(json.dumps("rank 1 by signal 9"))
    overseer.look()
    assert told == ["rank 1: one"] and said == [f"lost rank 1 by signal 9; its log is in {logs}"]
    assert list(scratch.iterdir()) == []  # said once
    overseer.end()
    assert told[1:] == ["rank 1: no end"]
    error = {"kind": "SettingsError", "what": "differs", "where": "10.0.0.2", "mend": "install the same"}
    (scratch / "error-7.json").write_text(json.dumps(error))
    with pytest.raises(SettingsError, match=r"10.0.0.2: differs; install the same"):
        overseer.look()


def test_silence_is_an_error_only_where_it_has_a_limit(tmp_path: Path) -> None:
    for limit_s in (0.0, 0.05):
        overseer = Overseer(tmp_path, tmp_path, limit_s, print, print)
        time.sleep(0.1)
        if limit_s:
            with pytest.raises(UserError, match="the workers have said nothing for 0 s; start again"):
                overseer.look()
        else:
            overseer.look()

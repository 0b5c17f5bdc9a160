"""The command line as a user meets it: errors in one line."""

from pathlib import Path
from typing import Any


def test_an_error_of_the_user_is_one_line_and_exit_2(command: Any, tmp_path: Path) -> None:
    done = command("status", "nowhere", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: nowhere: no training here")

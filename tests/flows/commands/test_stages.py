import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest


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

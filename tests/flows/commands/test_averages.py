from pathlib import Path
from typing import Any

import pytest

from fm.files import write_json
from fm.recipe import Recipe


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere"], "error: nowhere: no training here"),
        (["s3://bucket/run"], "error: s3://bucket/run: is at an address, and averages are made in a folder"),
        (["run", "--lengths", "0.1,long"], "error: --lengths: '0.1,long' is not a list of numbers"),
        (["run", "--lengths", "0.1,0.3"], "error: --lengths: 0.1,0.3 are not all above 0 and below 0.288"),
        (["run", "--solvers", "dopri5"], "error: --solvers: dopri5 needs a budget"),
        (["run", "--guidance", "1"], "error: evaluation.grid: guidance leads away from the network without label"),
    ],
)
def test_what_ema_refuses_before_anything_is_started(words: list[str], says: str, tmp_path: Path, command: Any) -> None:
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run" / "recipe.json", Recipe.load("tiny").model_dump(mode="json"))
    done = command("ema", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(says) and len(done.stderr.splitlines()) == 1

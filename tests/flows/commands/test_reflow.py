from pathlib import Path
from typing import Any

import pytest

from fm.files import write_json
from fm.recipe import Recipe


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere", "out"], "error: nowhere: no training here"),
        (["run", "./run"], "error: ./run: is the training that draws; give another folder for the one that learns"),
        (["run", "out", "--begin", "x"], "error: --begin: 'x' is nothing to begin with; take run or scratch"),
        (["run", "out", "--images", "3"], "error: --images: 3 is out of range; give 20 to 100,000,000"),
        (["run", "out", "--tolerance", "0"], "error: --tolerance: 0 is out of range; give 1e-09 to 1.0"),
        (["run", "out", "--set", "training.flips=true"], "error: training.flips: each image goes with the noise"),
        (["ddpm", "out"], "error: ddpm: does not predict a velocity (noise_matching)"),
    ],
)
def test_what_reflow_refuses_before_anything_is_started(
    words: list[str], says: str, tmp_path: Path, command: Any
) -> None:
    for name, changes in (("run", []), ("ddpm", ["objective=noise_matching", "path=vp"])):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "recipe.json", Recipe.load("tiny", changes).model_dump(mode="json"))
    done = command("reflow", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(says) and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists() and [file.name for file in (tmp_path / "run").iterdir()] == ["recipe.json"]

"""Reflow from the command line to its report, on the real services: drawn, trained, judged; nothing done twice."""

import subprocess
import sys
from pathlib import Path

import pytest

from fm.checkpoints import newest
from fm.data import load_manifest
from fm.files import read_json
from fm.recipe import Recipe
from fm.results import read_rows


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_network_is_trained_on_what_another_one_draws(finished: Path, tmp_path: Path) -> None:
    def fm(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows.cli", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400)

    drawing = newest(finished)
    assert drawing is not None
    words = ["reflow", str(finished), "out", "--images", "200", "--tolerance", "1e-2"]
    done = fm(*words)
    assert done.returncode == 0, done.stderr
    (drawn,) = (tmp_path / "data").glob("drawn-*")
    assert load_manifest(drawn).splits["train"].images == 200
    recipe, saved = Recipe.load(tmp_path / "out"), newest(tmp_path / "out")
    assert recipe.training.initial_weights == drawing.weights
    told = read_json(tmp_path / "out" / "data.json")["drawn"]
    assert (told["weights"], told["images"], told["data"]) == (drawing.weights, 200, str(drawn))
    assert told["digest"] == load_manifest(drawn).digest
    assert saved is not None and saved.weights != drawing.weights
    assert (tmp_path / "out" / "report.html").exists()
    mine, theirs = ({row["data"] for row in read_rows(run)} for run in (tmp_path / "out", finished))
    assert mine == theirs == {read_json(finished / "data.json")["digest"]}
    again = fm(*words)
    said = again.stdout + again.stderr
    assert again.returncode == 0 and said.count("unchanged (") >= 4, said
    refused = fm("train", str(drawn), "out", "--preset", "out")
    assert refused.returncode == 2 and "fm reflow" in refused.stderr, refused.stderr

"""A whole comparison of super-resolution, started twice, and what its trainings are used for."""

import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from PIL import Image

from flows.superres import superres
from fm.files import read_json
from fm.superres.plan import DATASETS
from tests.tasks.test_superres import CHANGES

FM = [sys.executable, "-m", "flows.cli"]


def test_the_form_offers_what_the_library_knows() -> None:
    assert set(get_args(superres.fn.__annotations__["dataset"])) == set(DATASETS)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_comparison_ends_with_its_page_and_its_network_enlarges_a_picture(tmp_path: Path, services: Any) -> None:
    def fm(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*FM, *words], cwd=tmp_path, capture_output=True, text=True, timeout=400)

    changes = [word for change in CHANGES for word in ("--set", change)]
    command = ["superres", "out", "--dataset", "photos", "--source", "photos:?tiles=80", "--workers", "1", *changes]
    command += ["--methods", "regression,fm-ot"]
    done = fm(*command)
    assert done.returncode == 0, done.stderr
    assert "Bicubic" in done.stdout and "shown" in done.stdout
    found = read_json(tmp_path / "out" / "report" / "claims.json")
    assert [line[0] for line in found["table"][2:]] == ["Bicubic", "Regression", "SR3-style", "FM w/ OT"]
    again = fm(*command)
    assert again.returncode == 0 and "report: unchanged" in again.stdout + again.stderr
    (row,) = [
        f for f in (tmp_path / "out/fm-ot-seed0/evaluations").glob("*.json") if read_json(f)["method"] != "untrained"
    ]
    done = fm("evaluate", "--rerun", str(row))
    assert done.returncode == 0 and "to the last bit" in done.stdout, done.stderr
    Image.new("RGB", (40, 30), "teal").save(tmp_path / "small.png")
    done = fm("sample", "out/fm-ot-seed0", "--low", "small.png", "--n", "4", "--nfe", "4", "--out", "large.png")
    assert done.returncode == 0 and Image.open(tmp_path / "large.png").size[0] > 64, done.stderr
    done = fm("sample", "out/fm-ot-seed0", "--low", "none.png")
    assert done.returncode == 2 and "error: none.png: no such file" in done.stderr

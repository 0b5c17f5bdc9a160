"""Averages of many lengths from the command line to their page, on the real services."""

import json
from pathlib import Path
from typing import Any

import pytest

from fm.files import read_json
from fm.results import read_rows


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_averages_are_made_measured_and_shown(services: Any, tmp_path: Path, command: Any) -> None:
    changes = ["training.total_images=640", "training.save_images=64", "training.keep_every_images=64"]
    changes += ["training.ema_lengths=[0.05,0.1]", "evaluation.samples=20"]
    words = [word for change in changes for word in ("--set", change)]
    done = command("pipeline", "photos:?tiles=80", "run", "--preset", "tiny", "--workers", "1", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    asked = ["ema", "run", "--lengths", "0.05,0.08,0.1", "--nfe", "4", "--samples", "20", "--json"]
    done = command(*asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    lengths = [line[0].removesuffix(" (best)") for line in told["table"][1:]]
    assert lengths == ["the training's own", "0.05", "0.08", "0.1"]
    assert sum(line[0].endswith(" (best)") for line in told["table"]) == 1
    page = Path(told["report"])
    assert page.exists() and (page.parent / "report" / "sweep.png").stat().st_size > 5000
    noises = set()
    for folder in (tmp_path / "run", *(page.parent / length for length in lengths[1:])):
        rows = [row for row in read_rows(folder) if (row["solver"], row["nfe"]) == ("midpoint", 4)]
        noises |= {row["noise_digest"] for row in rows if row["method"] != "untrained"}
        assert rows and {row["data"] for row in rows} == {read_json(tmp_path / "run" / "data.json")["digest"]}
    assert len(noises) == 1
    again = command(*asked, cwd=tmp_path)
    assert again.returncode == 0 and again.stderr.count("unchanged (") >= 5, again.stderr
    done = command("sample", f"run/averages/{page.parent.name}/0.08", "--n", "4", "--nfe", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr

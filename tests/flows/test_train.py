from pathlib import Path
from typing import Any

from fm.files import read_json


def test_a_finished_training_is_verified_and_left_alone(finished: Path, command: Any) -> None:
    data = read_json(finished / "data.json")["data"]
    done = command("train", data, str(finished), "--preset", "tiny", cwd=finished.parent)
    assert done.returncode == 0, done.stderr
    assert "train: unchanged (same recipe and data; 1,920 images seen" in done.stdout + done.stderr


def test_another_recipe_in_the_same_run_is_refused_with_the_keys(finished: Path, command: Any) -> None:
    data = read_json(finished / "data.json")["data"]
    done = command("train", data, str(finished), "--preset", "tiny", "--set", "training.seed=1", cwd=finished.parent)
    assert done.returncode == 2
    assert "holds a training by another recipe (training.seed 0, now 1); choose another RUN folder" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_data_that_are_not_there_are_one_sentence(tmp_path: Path, command: Any) -> None:
    done = command("train", "nowhere", "run", "--preset", "tiny", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: nowhere: no prepared data set here; make one with `fm prepare")

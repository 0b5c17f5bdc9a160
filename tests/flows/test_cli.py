"""The command line as a user meets it: pictures drawn, states shown, errors in one line."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


def test_sample_draws_a_grid(finished: Path, command: Any, tmp_path: Path) -> None:
    out = tmp_path / "grid.png"
    options = ["--n", "4", "--out", str(out), "--solver", "heun", "--nfe", "4"]
    done = command("sample", str(finished), *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "4 pictures in" in done.stdout
    first = out.read_bytes()
    with Image.open(out) as picture:
        assert picture.width > picture.height > 50
    command("sample", str(finished), *options, cwd=tmp_path)
    assert out.read_bytes() == first


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--solver", "eulr"], "unknown solver 'eulr'; did you mean 'euler'?"),
        (["--solver", "midpoint", "--nfe", "3"], "error: "),
        (["--class", "cat"], "not class-conditional"),
    ],
)
def test_sample_says_what_it_cannot_do(
    finished: Path, command: Any, tmp_path: Path, options: list[str], says: str
) -> None:
    done = command("sample", str(finished), "--n", "2", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_status_of_a_run_and_of_the_services(finished: Path, command: Any) -> None:
    told = json.loads(command("status", str(finished), "--json", cwd=finished.parent).stdout)
    assert told["images_seen"] == told["total_images"] == 1920 and told["rows"] == 4
    assert "1,920 of 1,920 images, loss" in command("status", str(finished), cwd=finished.parent).stdout
    services = json.loads(command("status", "--json", cwd=finished.parent).stdout)
    assert {s["name"] for s in services} == {"prefect", "mlflow", "ray", "worker"}
    assert all(s["healthy"] for s in services)


def test_logs_of_a_service(services: Any, command: Any, tmp_path: Path) -> None:
    assert command("logs", "prefect", "--lines", "3", cwd=tmp_path).returncode == 0
    done = command("logs", "prefct", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "error: unknown service 'prefct'; did you mean 'prefect'? known: mlflow, prefect, ray, worker\n",
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_write_permission_is_one_line(services: Any, command: Any, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    done = command("pipeline", "photos:?tiles=20", "locked/run", "--preset", "tiny", cwd=tmp_path)
    assert done.returncode == 2
    assert "choose a folder you may write" in done.stderr


def test_up_joins_what_runs_and_deploys(deployed: Any, command: Any) -> None:
    done = command("up", cwd=deployed.folder)
    assert done.returncode == 0, done.stderr
    assert "deploying prefect.yaml" in done.stdout and done.stdout.count("healthy") == 4
    assert "pipeline-tiny" in deployed.deployments

import json
from pathlib import Path
from typing import Any


def test_status_of_a_run_and_of_the_services(finished: Path, command: Any) -> None:
    told = json.loads(command("status", str(finished), "--json", cwd=finished.parent).stdout)
    assert told["images_seen"] == told["total_images"] == 1920 and told["rows"] == 4
    assert (told["stage"], told["checkpoint"], told["error"]) == ("", 1920, {})
    assert told["prefect"].startswith("http://") and told["mlflow"].startswith("http://")
    said = command("status", str(finished), cwd=finished.parent).stdout
    assert "1,920 of 1,920 images, loss" in said and "the training is finished" in said and "at 1,920 images" in said
    failure = {"time": 4e9, "error": "there: wrong; mend it", "log": "", "again": "fm train data run"}
    (finished / "failure.json").write_text(json.dumps(failure))
    said = command("status", str(finished), cwd=finished.parent).stdout
    (finished / "failure.json").unlink()
    assert "there: wrong; mend it (2096-10-02" in said and "go on with `fm train data run`" in said
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


def test_up_joins_what_runs_and_deploys(deployed: Any, command: Any) -> None:
    done = command("up", cwd=deployed.folder)
    assert done.returncode == 0, done.stderr
    assert "deploying prefect.yaml" in done.stdout and done.stdout.count("healthy") == 4
    assert "pipeline-tiny" in deployed.deployments

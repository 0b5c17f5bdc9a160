import json
from pathlib import Path
from typing import Any

import pytest


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
    assert {s["name"] for s in services} == {"prefect", "mlflow", "ray", "worker", "supervisor"}
    assert all(s["healthy"] for s in services)


def test_logs_of_a_service(services: Any, command: Any, tmp_path: Path) -> None:
    assert command("logs", "prefect", "--lines", "3", cwd=tmp_path).returncode == 0
    done = command("logs", "prefct", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "error: unknown service 'prefct'; did you mean 'prefect'? known: mlflow, prefect, ray, supervisor, worker\n",
    )


def test_up_joins_what_runs_and_deploys(deployed: Any, command: Any) -> None:
    done = command("up", cwd=deployed.folder)
    assert done.returncode == 0, done.stderr
    assert "deploying prefect.yaml and the automations" in done.stdout and done.stdout.count("healthy") == 5
    assert "pipeline-tiny" in deployed.deployments


def test_doctor_tells_of_every_feature_network(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FM_FEATURES", str(tmp_path))
    told = json.loads(command("doctor", "--metrics", "--json", cwd=tmp_path).stdout)
    states = {row["features"]: row["state"] for row in told["features"]}
    assert states["efficientnet_lite0"] == "ready" and states["dinov2_vitl14"] == "missing"
    said = command("doctor", "--metrics", cwd=tmp_path).stdout
    assert "efficientnet_lite0: ready, SHA-256 " in said and "\ninception_clean: missing\n" in said
    assert "must show  inception_score 11.24 (+- 0.12), Salimans et al. 2016" in said and "need no matrix" in said
    assert "see --metrics" in command("doctor", cwd=tmp_path).stdout

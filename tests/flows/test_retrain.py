"""Champion and challengers on the real services: first, the same again, one trained further, and back."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

import fm
from fm.checkpoints import newest
from fm.data import load_manifest
from fm.files import read_json
from fm.records import read
from infra.services import ask
from tasks.tracking import EXPERIMENT
from tests.flows.test_deploying import patch

MODEL = "photos-test"


def versions(model: str = MODEL) -> dict[str, dict[str, str]]:
    """The tags of each version in MLflow, asked as its page does."""
    found = ask(f"{os.environ['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/model-versions/search?filter=name%3D'{model}'")
    return {one["version"]: {tag["key"]: tag["value"] for tag in one["tags"]} for one in found["model_versions"]}


def champion(model: str) -> str:
    """The version that MLflow gives for the alias."""
    asked = f"/api/2.0/mlflow/registered-models/alias?name={model}&alias=champion"
    return str(ask(os.environ["MLFLOW_TRACKING_URI"] + asked)["model_version"]["version"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_first_is_champion_and_the_same_again_is_refused(deployed: Any, finished: Path, command: Any) -> None:
    told = []
    for _ in range(2):
        done = command("promote", "runs/tiny", "--model", MODEL, "--json", cwd=deployed.folder)
        assert done.returncode == 0, done.stderr
        told.append(json.loads(done.stdout.splitlines()[-1]))
    weights = newest(finished).weights  # type: ignore[union-attr]
    assert [one["decision"] for one in told] == ["accepted", "refused"]
    assert told[0]["why"] == "there is no champion yet to be better than"
    assert "does not improve by more than its uncertainty" in told[1]["why"]
    assert [(one["champion"], one["weights"]) for one in told] == [("1", weights)] * 2
    found = versions()
    assert {number: tags["decision"] for number, tags in found.items()} == {"1": "accepted", "2": "refused"}
    (metric, *_) = json.loads(found["2"]["numbers"])
    assert metric["difference"] == metric["half_interval"] == 0 and metric["metric"].startswith("fd_")
    page = (finished / "comparison" / "report.html").read_text()
    assert "not distinguishable" in page
    (cited,) = {one["weights"] for one in json.loads((finished / "champion.json").read_text())["weights"]}
    assert cited == weights
    back = command("rollback", MODEL, cwd=deployed.folder)
    assert (back.returncode, back.stderr.splitlines()[-1]) == (
        2,
        f"error: {MODEL}: version 1 replaced no other; there is nothing to go back to",
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_one_trained_further_takes_the_place_serves_and_gives_it_back(
    deployed: Any, finished: Path, command: Any, tmp_path: Path
) -> None:
    model, data = "photos-further", json.loads((finished / "data.json").read_text())["data"]
    first = command("promote", "runs/tiny", "--model", model, "--json", cwd=deployed.folder)
    assert first.returncode == 0, first.stderr
    form = {"model": model, "data": data, "runs": "runs/further", "changes": ["training.total_images=12800"]}
    form["changes"] += ["evaluation.samples=200", "evaluation.nll_images=0"]
    ended = deployed.wait(deployed.start("retrain", form), limit_s=900)
    assert ended["state"]["type"] == "COMPLETED", ended["state"]
    found = versions(model)
    assert {number: tags["decision"] for number, tags in found.items()} == {"1": "accepted", "2": "accepted"}, found
    assert found["2"]["replaced"] == "1" and found["2"]["against"] == "1"
    (run,) = (deployed.folder / "runs" / "further").glob(f"{model}-????????")
    (start,) = read(run / "records", after=-1, name="starts")
    assert start["restored"].startswith(f"started at 0 images with the weights {found['1']['weights'][:16]}")

    images = served(model, tmp_path)
    weights = newest(run).weights  # type: ignore[union-attr]
    expected = fm.load(run, weights=weights).sample(2, 5, method="midpoint", nfe=8).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(images, expected) and found["2"]["weights"] == weights

    back = command("rollback", model, "--json", cwd=deployed.folder)
    assert back.returncode == 0, back.stderr
    now = json.loads(back.stdout.splitlines()[-1])
    assert (now["was"], now["champion"], now["weights"]) == ("2", "1", newest(finished).weights)  # type: ignore[union-attr]
    # The next one on the same data comes to the same network, which stays rolled back.
    again = deployed.wait(deployed.start("retrain", form), limit_s=400)
    assert again["state"]["type"] == "COMPLETED", again["state"]
    assert champion(model) == "1" and len(versions(model)) == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_new_shards_start_it_if_they_are_its_own(deployed: Any, command: Any, tmp_path: Path) -> None:
    model, at = "photos-events", f"{deployed.api}/deployments/{deployed.deployments['retrain']['id']}"
    for name in ("ours", "others"):
        made = command("prepare", "photos:?tiles=60", f"runs/{name}", "--size", "16", cwd=deployed.folder)
        assert made.returncode == 0, made.stderr
    changes = [
        "training.total_images=640",
        "training.save_images=640",
        "evaluation.samples=40",
        "evaluation.nll_images=0",
    ]
    patch(at, {"parameters": {"model": model, "data": "runs/ours", "preset": "tiny", "changes": changes}})
    try:
        for name in ("others", "ours"):  # typed in another folder each: the data are known by where they lie
            folder = deployed.folder / "runs"
            added = command("prepare", "photos:?tiles=90", name, "--add", cwd=folder)
            assert added.returncode == 0, added.stderr
            ended = deployed.wait(started_for(deployed, folder / name), limit_s=600)["state"]
            if name == "others":
                assert ended["name"] == "Skipped" and f"are those of {folder / name}" in ended["message"], ended
        assert ended["type"] == "COMPLETED", ended
    finally:
        patch(at, {"parameters": deployed.deployments["retrain"]["parameters"]})
    (version,) = versions(model).values()
    assert version["decision"] == "accepted"
    (run,) = (deployed.folder / "runs" / "retrain").glob(f"{model}-????????")
    identity, client = read_json(run / "tracking.json")["id"], MlflowClient()
    query = f"tags.`fm.run` = '{identity}' and tags.`fm.stage` = 'train'"
    (training,) = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id], query)
    (data,) = training.inputs.dataset_inputs
    assert data.dataset.digest == load_manifest(deployed.folder / "runs" / "ours").digest


def started_for(deployed: Any, data: Path) -> str:
    """The run of `retrain` that the event of these data starts."""
    of = {"deployments": {"id": {"any_": [deployed.deployments["retrain"]["id"]]}}}
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for run in ask(f"{deployed.api}/flow_runs/filter", body=of):
            if run["parameters"].get("added") == str(data):
                return str(run["id"])
        time.sleep(0.3)
    raise AssertionError("no run was started")


def served(model: str, folder: Path) -> Any:
    """What `mlflow models serve` answers of the champion, asked for two images from a folder that knows no project."""
    from tests.conftest import free_ports

    port = free_ports().prefect
    mlflow = Path(sys.executable).with_name("mlflow")
    command = [mlflow, "models", "serve", "-m", f"models:/{model}@champion", "-p", str(port), "--env-manager", "local"]
    path = os.pathsep.join([str(mlflow.parent), os.environ["PATH"]])
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(
            command, cwd=folder, env={**os.environ, "PATH": path}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline, address = time.monotonic() + 200, f"http://127.0.0.1:{port}"
        while True:
            try:
                urllib.request.urlopen(f"{address}/ping", timeout=5)
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.5)
        request = {"dataframe_split": {"columns": ["n", "seed", "nfe"], "data": [[2, 5, 8]]}}
        return np.array(ask(f"{address}/invocations", body=request, timeout_s=120)["predictions"], dtype=np.uint8)
    finally:
        os.killpg(server.pid, 15)
        server.wait(20)

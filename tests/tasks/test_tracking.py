"""What MLflow shows of a finished run, asked through its own client; and what happens again, or while it is away."""

import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from mlflow import MlflowClient
from prefect.exceptions import TerminationSignal

from fm.errors import UserError
from fm.files import read_json, write_json
from fm.recipe import Recipe
from fm.records import Recorder, read
from fm.results import read_rows
from fm.serving import example
from tasks import watching
from tasks.tracking import EXPERIMENT, Tracking, as_pyfunc, tracked


@pytest.fixture
def client(services: Any) -> MlflowClient:
    return MlflowClient(services.mlflow)


def runs_of(client: MlflowClient, run: Path) -> dict[str, Any]:
    """MLflow's runs for a RUN, by stage or cell."""
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    found = client.search_runs([experiment], f"tags.`fm.run` = '{read_json(run / 'tracking.json')['id']}'")
    return {r.data.tags["fm.stage"]: r for r in found}


def test_a_parent_with_a_child_for_each_stage_and_cell(finished: Path, client: MlflowClient) -> None:
    runs = runs_of(client, finished)
    rows = read_rows(finished)
    stages = {"prepare", "train", "evaluate", "report"}
    # One more of a RUN that was promoted.
    assert set(runs) - {"judge"} == {"pipeline", *stages, *(f"cell {row['key']}" for row in rows)}
    parent = runs["pipeline"]
    assert {runs[s].data.tags["mlflow.parentRunId"] for s in stages} == {parent.info.run_id}
    for row in rows:
        assert runs[f"cell {row['key']}"].data.tags["mlflow.parentRunId"] == runs["evaluate"].info.run_id
    assert {r.info.status for r in runs.values()} == {"FINISHED"}
    assert parent.data.params["training.batch_images"] == "64"
    assert parent.data.tags["recipe_digest"] == Recipe.load("tiny").digest()


def test_training_metrics_are_the_records(finished: Path, client: MlflowClient) -> None:
    rows = read(finished / "records")
    history = client.get_metric_history(runs_of(client, finished)["train"].info.run_id, "train/loss")
    assert len(history) >= 20
    assert [(m.step, m.value, m.timestamp) for m in history] == [
        (row["images_seen"], row["loss"], int(1000 * row["time"])) for row in rows
    ]


def test_the_grids_of_samples_are_pictures_by_step(finished: Path, client: MlflowClient) -> None:
    run = runs_of(client, finished)["train"]
    whole = [Path(f.path) for f in client.list_artifacts(run.info.run_id, "images") if f.path.endswith(".png")]
    steps = sorted(int(file.name.split("+")[2]) for file in whole)
    assert steps == sorted(int(grid.stem.removeprefix("seen-")) for grid in (finished / "samples").iterdir())
    assert len(steps) > 0 and run.data.tags["mlflow.loggedImages"] == "True"  # which makes MLflow look for them


def test_the_machine_is_shown_where_mlflow_shows_it(finished: Path, client: MlflowClient) -> None:
    rows = read(finished / "records", name="system-0")
    run = runs_of(client, finished)["train"].info.run_id
    history = client.get_metric_history(run, "system/cpu_utilization_percentage")
    assert [(m.step, m.value) for m in history] == [
        (row["images_seen"], row["cpu_utilization_percentage"]) for row in rows
    ]
    assert [row["images_seen"] for row in rows] == [row["images_seen"] for row in read(finished / "records")]


def test_the_sweep_has_a_point_for_each_nfe(finished: Path, client: MlflowClient) -> None:
    sweep = runs_of(client, finished)["evaluate"].info.run_id
    for row in read_rows(finished):
        if row["method"] != "untrained":
            name = f"{row['solver']}/fd_efficientnet_lite0_b7"
            points = {m.step: m.value for m in client.get_metric_history(sweep, name)}
            assert points[row["nfe"]] == row["fd_efficientnet_lite0_b7"]


def test_the_data_set_is_an_input_and_the_figures_are_there(finished: Path, client: MlflowClient) -> None:
    runs = runs_of(client, finished)
    for stage in ("pipeline", "train"):
        (dataset,) = runs[stage].inputs.dataset_inputs
        assert dataset.dataset.digest == read_json(finished / "data.json")["digest"]
    kept = {Path(f.path).name for f in client.list_artifacts(runs["pipeline"].info.run_id, "report")}
    assert {"report.html", "samples.png", "loss.png", "table.csv"} <= kept


def test_links_lead_both_ways(finished: Path, client: MlflowClient, services: Any) -> None:
    from infra.services import ask

    def artifacts(query: dict[str, Any]) -> list[dict[str, Any]]:
        return ask(f"{services.prefect_api}/artifacts/filter", body={"artifacts": query})

    parent = runs_of(client, finished)["pipeline"]
    assert parent.data.tags["prefect_flow_run"].startswith(services.prefect_api.removesuffix("/api"))
    linked = [
        a["flow_run_id"] for a in artifacts({"key": {"any_": ["mlflow"]}}) if parent.info.run_id in str(a["data"])
    ]
    shown = {run: {a["key"]: str(a["data"]) for a in artifacts({"flow_run_id": {"any_": [run]}})} for run in linked}
    (whole, *_) = (run for run, data in shown.items() if {"results", "samples", "ray"} <= set(data))
    assert "fd_efficientnet_lite0_b7" in shown[whole]["results"]
    assert parent.data.tags["ray_dashboard"] in shown[whole]["ray"]
    token = {"Authorization": f"Bearer {services.ray_token_path.read_text()}"}
    jobs = ask(f"{parent.data.tags['ray_dashboard']}/api/jobs/", headers=token)
    assert any(whole in str(job["metadata"]) for job in jobs)
    query = {"logs": {"flow_run_id": {"any_": [whole]}}, "sort": "TIMESTAMP_ASC"}
    lines = [line["message"] for line in ask(f"{services.prefect_api}/logs/filter", body=query)]
    assert any(re.match(r"rank 1: .*rank 1 of 2 on ", line) for line in lines)
    assert any(re.match(r"rank 0: .*Progress\(", line) for line in lines)


def test_sending_again_adds_nothing(finished: Path, client: MlflowClient) -> None:
    def state() -> Any:
        runs = runs_of(client, finished)
        train, sweep = (runs[s].info.run_id for s in ("train", "evaluate"))
        points = client.get_metric_history(train, "train/loss"), client.get_metric_history(sweep, "euler/seconds")
        grids = sorted(file.path for file in client.list_artifacts(train, "images"))
        return grids, len(runs), [[(m.step, m.value) for m in history] for history in points]

    before = state()
    tracking = Tracking(finished, Recipe.load(finished))
    tracking.training()
    tracking.rows(read_rows(finished))
    assert state() == before


def test_what_is_trained_again_stands_in_mlflow_once(services: Any, client: MlflowClient, tmp_path: Path) -> None:
    def trained(*images_seen: int, at: float) -> None:
        recorder = Recorder(tmp_path / "records")
        for seen in images_seen:
            recorder.write(seen, at + seen, loss=1 / seen, images_per_s=at)
        Tracking(tmp_path, Recipe.load("tiny")).training()  # as each start has its own

    trained(64, 128, 192, at=1e9)
    Recorder(tmp_path / "records").cut(64)  # a death that the checkpoint at 64 survived
    trained(128, 192, 256, at=2e9)
    run = runs_of(client, tmp_path)["train"].info.run_id
    for name in ("loss", "images_per_s"):
        history = client.get_metric_history(run, f"train/{name}")
        assert [point.step for point in history] == [64, 128, 192, 256]
    assert [point.value for point in history] == [1e9, 1e9, 1e9, 2e9]


@pytest.mark.parametrize(
    ("error", "status"),
    [(UserError("no"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (TerminationSignal(signal=15), "KILLED")],
)
def test_what_a_signal_ended_was_killed(
    error: BaseException, status: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mlflow = MagicMock()
    mlflow.search_runs.return_value = []
    mlflow.create_run.side_effect = lambda _, tags, run_name: SimpleNamespace(info=SimpleNamespace(run_id=run_name))
    monkeypatch.setattr(Tracking, "_connect", lambda self: vars(self).update(_client=mlflow, _experiment="0"))
    monkeypatch.setattr(watching, "link", lambda *_: None)
    with pytest.raises(type(error)), tracked(tmp_path, Recipe.load("tiny")) as copy, copy.stage("train"):
        raise error
    ended = {call.args[0]: call.args[1] for call in mlflow.set_terminated.call_args_list}
    assert ended == {"train": status, f"{tmp_path.name} (tiny)": status}


@pytest.mark.parametrize(("preset", "low_size"), [("tiny", None), ("superres-mini", 16)])
def test_a_model_says_by_an_example_what_it_is_asked(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, preset: str, low_size: int | None
) -> None:
    write_json(tmp_path / "published" / "recipe.json", Recipe.load(preset).model_dump(mode="json"))
    as_pyfunc(tmp_path / "published", tmp_path / "model", ["numpy"])
    assert not [str(warning.message) for warning in recwarn if "input example" in str(warning.message)]
    found = read_json(tmp_path / "model" / "serving_input_example.json")["dataframe_split"]
    assert dict(zip(found["columns"], *found["data"], strict=True)) == example(low_size)


KILLED = """
import os, signal, sys
from pathlib import Path
from fm.recipe import Recipe
from tasks.tracking import Tracking

copy = Tracking(Path(sys.argv[1]), Recipe.load("tiny"))
copy.open()
with copy.stage("train"):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.timeout(300)
def test_what_a_killed_process_left_running_is_ended_by_the_next(client: MlflowClient, tmp_path: Path) -> None:
    def shown(run: Path) -> dict[str, str]:
        return {stage: found.info.status for stage, found in runs_of(client, run).items()}

    killed, other = tmp_path / "killed", tmp_path / "other"
    for run in (killed, other):
        run.mkdir()
    subprocess.run([sys.executable, "-c", KILLED, str(killed)], check=False)
    assert shown(killed) == {"pipeline": "RUNNING", "train": "RUNNING"}
    again = Tracking(killed, Recipe.load("tiny"))
    again.open()
    assert shown(killed) == {"pipeline": "RUNNING", "train": "KILLED"}
    with again.stage("train"):
        Tracking(other, Recipe.load("tiny")).open()
        assert shown(killed) == {"pipeline": "RUNNING", "train": "RUNNING"}  # for this process lives
    again.close("FINISHED")
    subprocess.run([sys.executable, "-c", KILLED, str(killed)], check=False)
    assert set(shown(killed).values()) == {"RUNNING"}
    Tracking(other, Recipe.load("tiny")).open()
    assert shown(killed) == {"pipeline": "KILLED", "train": "KILLED"}
    assert shown(other) == {"pipeline": "RUNNING"}


def test_an_mlflow_that_hangs_holds_nobody_up(services: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(watching, "say", lambda line: None)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # which takes a call and never answers
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        tracking = Tracking(tmp_path, Recipe.load("tiny"))
        start = time.monotonic()
        for _ in range(3):
            tracking.training_meanwhile()
        assert time.monotonic() - start < 0.5
        tracking.training()  # one after the other
        assert tracking.away


def test_mlflow_away_is_a_line_and_no_error(finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said: list[str] = []
    monkeypatch.setattr(watching, "say", said.append)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracking = Tracking(tmp_path, Recipe.load("tiny"))
    tracking.open()
    with tracking.stage("train"):
        tracking.training()
    tracking.close("FINISHED")
    assert tracking.url == ""
    assert len(said) == 1 and "MLflow is away" in said[0]

"""A pipeline whose last stage failed goes on there, by Prefect's own retry and by the same form, and doubles nothing.

Its pictures have names that would be code on a page that does not escape them.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from fm.data import load_manifest, open_source, write_shards
from fm.facts import on_data
from fm.files import read_json
from fm.recipe import Recipe, opened
from infra.services import Services, ask
from tasks import measuring, on_workers, standing
from tasks.tracking import EXPERIMENT
from tests.tasks.test_standing import CHANGES

BAD = "<script>alert(1)</script>"
CLASSES = ("<img src=x onerror=alert(1)>", "<script>")


def made(folder: Path) -> Recipe:
    """RUN as a pipeline leaves it that has come to its report: prepared, trained and measured, in this process."""
    generator = np.random.default_rng(0)
    for i in range(120):
        (folder / BAD / CLASSES[i % 2]).mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        picture.save(folder / BAD / CLASSES[i % 2] / f"{i}.png")
    recipe = Recipe.load("tiny", [*CHANGES, "class_conditional=true", f"name='{BAD}'"])
    source = open_source(str(folder / BAD))
    data = standing.folder_for(source.uri, recipe.data, folder / "runs")
    manifest = write_shards(source, data, recipe.data)
    with opened(folder / "runs" / "evil", recipe) as run:
        on_data(run, data, manifest, standing.order_of(recipe, manifest))
        on_workers.training({"recipe": recipe.model_dump(mode="json"), "data": str(data), "run": str(run)})
        saved = standing.trained(run, recipe, manifest).needed("train", run)
        for job in standing.jobs(run, recipe, saved):
            for share in job.missing():
                share.keep(measuring.found(share))
            measuring.row(job)
    return recipe


def logged(api: str, run: str) -> list[str]:
    """The lines of a flow run that has ended; its process hands the last ones in after its state."""
    query = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
    deadline = time.monotonic() + 60
    while True:
        lines = [line["message"] for line in ask(f"{api}/logs/filter", query)]
        if (lines and lines[-1].startswith("Finished in state Completed")) or time.monotonic() > deadline:
            return lines
        time.sleep(0.5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_failed_pipeline_goes_on_at_the_failed_stage(services: Services, deployed: Any) -> None:
    api, run = deployed.api, deployed.folder / "runs" / "evil"
    recipe = made(deployed.folder)
    source = str(deployed.folder / BAD)
    form = {"source": source, "run": "runs/evil", "recipe": recipe.model_dump(mode="json"), "place": {"workers": 1}}
    (run / "report").write_text("in the way of a folder of this name")
    started = deployed.start("pipeline-tiny", form)
    failed = deployed.wait(started)
    assert failed["state"]["type"] == "FAILED" and "cannot make this folder" in failed["state"]["message"]
    assert failed["name"] == f"pipeline {BAD} fm-ot batch 64: runs/evil"
    assert {"pipeline", "preset", "tiny", "fm-ot"} <= set(failed["tags"])

    def left() -> dict[Path, int]:
        kept = [*(run / "checkpoints").rglob("*"), *(run / "evaluations").rglob("*"), run / "records" / "train.jsonl"]
        return {file: file.stat().st_mtime_ns for file in kept if file.is_file() and file.name != "best.json"}

    def tracked() -> dict[str, Any]:
        client = MlflowClient(services.mlflow)
        experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
        runs = client.search_runs([experiment], f"tags.`fm.run` = '{read_json(run / 'tracking.json')['id']}'")
        stages = {one.data.tags["fm.stage"]: one for one in runs}
        assert len(stages) == len(runs)
        points = client.get_metric_history(stages["train"].info.run_id, "train/loss")
        return {"runs": set(stages), "points": [point.step for point in points]}

    before, copied = left(), tracked()
    (run / "report").unlink()
    answer = ask(
        f"{api}/flow_runs/{started}/set_state", {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
    )
    assert answer["status"] == "ACCEPT"
    done = deployed.wait(started)
    assert (done["state"]["type"], done["run_count"]) == ("COMPLETED", 2), done["state"]
    again = deployed.start("pipeline-tiny", form)
    assert deployed.wait(again)["state"]["type"] == "COMPLETED"
    assert left() == before
    assert tracked() == copied
    lines = logged(api, started) + logged(api, again)
    for stage in ("prepare", "train", "evaluate"):  # before, by the retry, by the same form
        assert sum(line.startswith(f"{stage}: unchanged (") for line in lines) == 3, stage
    told = [line for line in lines if line.startswith("report: ")]
    assert [told[i].split("(")[0] for i in (0, 1, -1)] == ["report: to do ", "report: to do ", "report: unchanged "]

    assert load_manifest(read_json(run / "data.json")["data"]).classes == CLASSES
    made_there = ask(f"{api}/artifacts/filter", {"flow_runs": {"id": {"any_": [started, again]}}})
    assert {"failed", "mlflow", "results", "samples"} <= {a["key"] for a in made_there}
    text = json.dumps([[a["data"], a["description"]] for a in made_there]) + (run / "report.html").read_text()
    assert "&lt;script&gt;" in text and "<script" not in text and "<img src=x" not in text

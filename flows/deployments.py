"""`prefect.yaml`, made from the presets: one deployment for each flow, and one of `pipeline` for each preset.

Prefect's form sends every default explicitly, so a preset can be changed in it only if the deployment's parameters are
the whole recipe with the preset's values. `python -m flows.deployments` writes the file anew; a test compares it.
"""

from pathlib import Path
from typing import Any

import yaml

from fm import presets
from fm.recipe import Recipe

FILE = Path(__file__).parent.parent / "prefect.yaml"
POOL = "flow-matching"
DATA = "runs/data/photos"
HEAD = "# Made from fm/presets by `python -m flows.deployments`; change those, not this file.\n"


def deployments() -> list[dict[str, Any]]:
    """Every deployment as Prefect's YAML knows it; paths are relative to the folder that is deployed."""
    demo = Recipe.load("demo")
    flows = [
        _deployment("prepare", "prepare.py:prepare_data", {"source": "photos:", "data": DATA} | _data(demo)),
        _deployment("extend", "prepare.py:extend_data", {"source": "more-pictures", "data": DATA}),
        _deployment("train", "train.py:train_run", {"data": DATA, "run": "runs/train"} | _recipe(demo)),
        _deployment("evaluate", "evaluate.py:evaluate_run", {"run": "runs/demo"}),
        _deployment("pipeline", "pipeline.py:pipeline", {"source": "photos:", "run": "runs/pipeline"} | _recipe(demo)),
        _deployment("retrain", "retrain.py:retrain", {"model": "photos", "data": DATA, "runs": "runs/retrain"})
        | {
            # Off until somebody turns it on; new shards of these data start it too.
            "schedules": [{"cron": "0 3 * * 1", "timezone": "UTC", "active": False}],
            "triggers": [{"match": {"fm.data": DATA}, "expect": ["fm.data.extended"], "name": "retrain on new shards"}],
        },
        _deployment("promote", "retrain.py:promote", {"run": "runs/demo", "model": "photos"}),
        _deployment("paper", "paper.py:paper", {"dataset": "photos", "out": "runs/paper-photos-mini"}),
    ]
    return flows + [
        _deployment(
            f"pipeline-{name}",
            "pipeline.py:pipeline",
            {"source": "photos:", "run": f"runs/{name}"} | _recipe(Recipe.load(name)),
            tags=["preset"],
        )
        for name in presets.names()
    ]


def _deployment(
    name: str, entrypoint: str, parameters: dict[str, Any], tags: list[str] | None = None
) -> dict[str, Any]:
    return {
        "name": name,
        "entrypoint": f"flows/{entrypoint}",
        "tags": tags or [],
        # No pipe to the worker: a flow that prints into one whose reader has died ends too. Its log is Prefect's.
        "work_pool": {"name": POOL, "job_variables": {"stream_output": False}},
        # One at a time on these machines; the next waits its turn.
        "concurrency_limit": {"limit": 1, "collision_strategy": "ENQUEUE"},
        "parameters": parameters,
    }


def _recipe(recipe: Recipe) -> dict[str, Any]:
    return {"recipe": recipe.model_dump(mode="json")}


def _data(recipe: Recipe) -> dict[str, Any]:
    return {"settings": recipe.data.model_dump(mode="json")}


def text() -> str:
    """The whole file."""
    return HEAD + yaml.safe_dump({"name": "flow-matching", "deployments": deployments()}, sort_keys=False, width=120)


if __name__ == "__main__":
    FILE.write_text(text())

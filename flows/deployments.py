"""`prefect.yaml`, made from the presets: one deployment for each flow, and one of `pipeline` for each preset.

Prefect's form sends every default explicitly, so a preset can be changed in it only if the deployment's parameters are
the whole recipe with the preset's values. `python -m flows.deployments` writes the file anew; a test compares it. What
else stands in Prefect for all of them is `flows/automations.py`.
"""

from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from fm import presets
from fm.recipe import Recipe

FILE = Path(__file__).parent.parent / "prefect.yaml"
POOL = "flow-matching"
DATA = "runs/data/photos"
HEAD = "# Made from fm/presets by `python -m flows.deployments`; change those, not this file.\n"
# An event's value as a flow's parameter: Prefect renders the template, and reads what comes of it as JSON.
OF_EVENT = {
    "__prefect_kind": "json",
    "value": {"__prefect_kind": "jinja", "template": "{{ event.resource['fm.data'] | tojson }}"},
}
SOURCES = {
    "best": "photos:",
    "cifar10": "cifar10:data/cifar-10-binary.tar.gz",
    "cifar10-otcfm": "cifar10:data/cifar-10-binary.tar.gz",
    "demo": "photos:",
    "emoji64": "emoji:data/emoji",
    "imagenet128": "imagenet:data/imagenet",
    "imagenet32": "npz:data/imagenet32",
    "imagenet64": "npz:data/imagenet64",
    "mini": "photos:",
    "superres-mini": "photos:",
    "superres256": "imagenet:data/imagenet",
    "tiny": "photos:",
}
"""The pictures that each preset is for: built in, or where the form expects them, relative to the project."""
WORDS = {
    "prepare": "Pictures become shards with a manifest. Started again it keeps whole shards.",
    "extend": "Adds pictures to prepared data as further shards; emits the event `fm.data.extended`.",
    "train": "Trains a network on prepared data. The same form again goes on at its newest checkpoint.",
    "evaluate": "Measures a trained network and writes its report. Rows that stand are not measured again.",
    "averages": "Averages of many lengths of a training that kept some (training.ema_lengths): which draws best.",
    "pipeline": "Pictures in, report out: prepare, train, evaluate, report. The same form again goes on where it "
    "ended; start_at leaves earlier stages out.",
    "retrain": "Trains a challenger on the data as they are now, from the champion's weights or from scratch; it "
    "becomes champion only if it is better beyond the uncertainty. Turn its schedule on, or let new shards start it.",
    "promote": "Judges a trained RUN against the champion as `retrain` does; the first one becomes champion.",
    "superres": "Super-resolution: flow matching, an SR3-style diffusion and regression on the same pairs, beside "
    "bicubic enlarging. Started again it goes on.",
    "reflow": "A trained network draws images, another one is trained on each with its noise, and needs fewer steps. "
    "Started again it goes on.",
    "paper": "Every method of the paper's Table 1, trained and measured alike. Started again it goes on.",
}


def deployments() -> list[dict[str, Any]]:
    """Every deployment as Prefect's YAML knows it; paths are relative to the folder that is deployed."""
    demo = Recipe.load("demo")
    flows = [
        _deployment("prepare", "prepare.py:prepare_data", {"source": "photos:", "data": DATA} | _data(demo)),
        _deployment("extend", "prepare.py:extend_data", {"source": "more-pictures", "data": DATA}),
        _deployment("train", "train.py:train_run", {"data": DATA, "run": "runs/train"} | _recipe(demo)),
        _deployment("evaluate", "evaluate.py:evaluate_run", {"run": "runs/demo"}),
        _deployment("averages", "averages.py:averages", {"run": "runs/train"}),
        _deployment("pipeline", "pipeline.py:pipeline", {"source": "photos:", "run": "runs/pipeline"} | _recipe(demo)),
        _deployment("retrain", "retrain.py:retrain", {"model": "photos", "data": DATA})
        | {
            # Off until somebody turns it on. New shards start it too; it does nothing unless they are its data's.
            "schedules": [{"cron": "0 3 * * 1", "timezone": "UTC", "active": False}],
            "triggers": [
                {"expect": ["fm.data.extended"], "parameters": {"added": OF_EVENT}, "name": "retrain on new shards"}
            ],
        },
        _deployment("promote", "retrain.py:promote", {"run": "runs/demo", "model": "photos"}),
        _deployment("reflow", "reflow.py:reflow", {"teacher": "runs/demo", "run": "runs/demo-reflow"}),
        _deployment("paper", "paper.py:paper", {"dataset": "photos", "out": "runs/paper-photos-mini"}),
        _deployment("superres", "superres.py:superres", {"dataset": "photos", "out": "runs/superres-photos"}),
    ]
    return flows + [_of_preset(name) for name in presets.names()]


def _of_preset(name: str) -> dict[str, Any]:
    recipe = Recipe.load(name)
    parameters = {"source": SOURCES[name], "run": f"runs/{name}"} | _recipe(recipe)
    made = _deployment("pipeline", "pipeline.py:pipeline", parameters, tags=["preset", name, recipe.method])
    return made | {"name": f"pipeline-{name}", "description": f"{_said_of(name)}\n\n{WORDS['pipeline']}"}


def _deployment(
    stage: str, entrypoint: str, parameters: dict[str, Any], tags: list[str] | None = None
) -> dict[str, Any]:
    """One for a stage; tagged with it, so are its runs. The flow of one with a schedule takes
    `tasks.scheduling.caught_up_once`, which says what becomes of a run that overlaps another."""
    return {
        "name": stage,
        "description": WORDS[stage],
        "entrypoint": f"flows/{entrypoint}",
        "tags": [stage, *(tags or [])],
        # No pipe to the worker: a flow that prints into one whose reader has died ends too. Its log is Prefect's.
        "work_pool": {"name": POOL, "job_variables": {"stream_output": False}},
        # One at a time on these machines; the others wait.
        "concurrency_limit": {"limit": 1, "collision_strategy": "ENQUEUE"},
        "parameters": parameters,
    }


def _said_of(preset: str) -> str:
    """What the first lines of a preset's file say of it."""
    comment = takewhile(lambda line: line.startswith("#"), presets.file(preset).read_text().splitlines())
    return " ".join(line.lstrip("# ") for line in comment)


def _recipe(recipe: Recipe) -> dict[str, Any]:
    return {"recipe": recipe.model_dump(mode="json")}


def _data(recipe: Recipe) -> dict[str, Any]:
    return {"settings": recipe.data.model_dump(mode="json")}


def text() -> str:
    """The whole file."""
    return HEAD + yaml.safe_dump({"name": "flow-matching", "deployments": deployments()}, sort_keys=False, width=120)


if __name__ == "__main__":
    FILE.write_text(text())

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.utilities.callables import parameter_schema

from flows import averages, deployments, evaluate, paper, pipeline, prepare, reflow, retrain, superres, train
from fm import presets
from fm.data.sources import members
from fm.recipe import Recipe


def test_the_file_is_the_one_that_the_presets_give() -> None:
    assert deployments.FILE.read_text() == deployments.text(), "run `python -m flows.deployments`"


def test_the_file_names_no_folder_of_a_machine() -> None:
    text = deployments.FILE.read_text()
    assert str(deployments.FILE.parent) not in text
    assert not re.search(r"(?m)[:\s'\"]/[a-z]+/", text)
    assert all(not Path(d["entrypoint"]).is_absolute() for d in yaml.safe_load(text)["deployments"])


def test_each_says_what_it_is_in_tags_and_words() -> None:
    made = {one["name"]: one for one in deployments.deployments()}
    assert made["train"]["tags"] == ["train"]
    tiny = made["pipeline-tiny"]
    assert tiny["tags"] == ["pipeline", "preset", "tiny", "fm-ot"]
    assert tiny["description"].startswith("The whole pipeline in a minute, to see that it works")
    assert all(len(one["description"]) > 40 for one in made.values())


def test_every_preset_has_the_pictures_that_it_is_for() -> None:
    assert set(deployments.SOURCES) == set(presets.names())
    assert {source.partition(":")[0] for source in deployments.SOURCES.values()} <= set(members())
    made = {one["name"]: one["parameters"] for one in deployments.deployments()}
    assert made["pipeline-cifar10"]["source"].startswith("cifar10:")
    assert made["pipeline-demo"]["source"] == "photos:"


FLOWS = (
    prepare.prepare_data,
    prepare.extend_data,
    train.train_run,
    evaluate.evaluate_run,
    averages.averages,
    pipeline.pipeline,
    retrain.retrain,
    retrain.promote,
    reflow.reflow,
    paper.paper,
    superres.superres,
)


def fields(schema: dict[str, Any], known: dict[str, Any], key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of a form, nested ones by their dotted keys."""
    for name, field in schema.get("properties", {}).items():
        yield f"{key}{name}", field
        for part in (field, *field.get("anyOf", ()), *field.get("allOf", ()), field.get("items", {})):
            if "$ref" in part:
                yield from fields(known[part["$ref"].rpartition("/")[2]], known, f"{key}{name}.")


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_every_field_of_a_form_says_what_it_is_and_its_bounds(flow: Any) -> None:
    schema = parameter_schema(flow.fn).model_dump_for_openapi()
    found = list(fields(schema, schema.get("definitions", {})))
    assert len(found) > 3
    silent = []
    for key, field in found:
        if key.rpartition(".")[2] == "kind":  # the name of a member, shown as a choice
            continue
        words = field.get("description", "")
        if len(words) < 6:
            silent.append(f"{key} has no description")
        for part in (field, *field.get("anyOf", ())):
            for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
                if name in part and not any(character.isdigit() for character in words):
                    silent.append(f"{key} has bounds that {words!r} does not say")
    assert silent == []


def test_every_flow_and_every_preset_is_deployed_where_the_project_lies(deployed: Any) -> None:
    expected = {flow.name for flow in FLOWS} | {f"pipeline-{name}" for name in presets.names()}
    assert set(deployed.deployments) == expected
    for name in presets.names():
        there = deployed.deployments[f"pipeline-{name}"]
        assert Recipe.parse(there["parameters"]["recipe"]) == Recipe.load(name)
        (step,) = there["pull_steps"]
        assert step == {"prefect.deployments.steps.set_working_directory": {"directory": str(deployed.folder)}}

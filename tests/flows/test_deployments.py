import re
from pathlib import Path
from typing import Any

import yaml

from flows import deployments
from fm import presets
from fm.recipe import Recipe


def test_the_file_is_the_one_that_the_presets_give() -> None:
    assert deployments.FILE.read_text() == deployments.text(), "run `python -m flows.deployments`"


def test_the_file_names_no_folder_of_a_machine() -> None:
    text = deployments.FILE.read_text()
    assert str(deployments.FILE.parent) not in text
    assert not re.search(r"(?m)[:\s'\"]/[a-z]+/", text)
    assert all(not Path(d["entrypoint"]).is_absolute() for d in yaml.safe_load(text)["deployments"])


def test_every_flow_and_every_preset_is_deployed_where_the_project_lies(deployed: Any) -> None:
    expected = {"prepare", "extend", "train", "evaluate", "pipeline", "paper"}
    expected |= {f"pipeline-{name}" for name in presets.names()}
    assert set(deployed.deployments) == expected
    for name in presets.names():
        there = deployed.deployments[f"pipeline-{name}"]
        assert Recipe.parse(there["parameters"]["recipe"]) == Recipe.load(name)
        (step,) = there["pull_steps"]
        assert step == {"prefect.deployments.steps.set_working_directory": {"directory": str(deployed.folder)}}

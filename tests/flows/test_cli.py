"""The command line as a user meets it: errors in one line; and each command's flow takes what the command gives."""

import importlib
import inspect
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import commands
from flows.cli import app
from flows.commands import averages, evaluating, models, papers, reflow, stages, superres
from fm.data import open_source, write_shards
from fm.files import write_json
from fm.recipe import Recipe


def test_an_error_of_the_user_is_one_line_and_exit_2(command: Any, tmp_path: Path) -> None:
    done = command("status", "nowhere", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: nowhere: no training here")


def test_the_version_and_where_the_services_would_be_are_told(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FM_STATE", "nobody")
    assert re.fullmatch(r"fm \d+\.\d+\.\d+\n", command("--version", cwd=tmp_path).stdout)
    assert f"nothing is running from {tmp_path}/nobody" in command("status", cwd=tmp_path).stdout
    assert f"nothing was running from {tmp_path}/nobody" in command("down", cwd=tmp_path).stdout


DATA, RUN, OUT = "data", "run", "out"
COMMANDS = {
    "pipeline": ["pipeline", "photos:", OUT, "--preset", "tiny"],
    "prepare_data": ["prepare", "photos:", OUT, "--size", "16"],
    "extend_data": ["prepare", "photos:", DATA, "--add"],
    "train_run": ["train", DATA, OUT, "--preset", "tiny"],
    "evaluate_run": ["evaluate", RUN],
    "averages": ["ema", RUN],
    "rerun": ["evaluate", "--rerun", f"{RUN}/evaluations/key.json"],
    "paper": ["paper", OUT, "--dataset", "photos"],
    "superres": ["superres", OUT, "--dataset", "photos"],
    "reflow": ["reflow", RUN, OUT],
    "retrain": ["retrain", DATA, "--model", "photos", "--set", "training.total_images=100"],
    "promote": ["promote", RUN, "--model", "photos"],
}
"""A command line for each flow that a command runs."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With prepared DATA and a RUN as its beginning leaves it, as far as the commands look at them."""
    folder, recipe = tmp_path_factory.mktemp("commands"), Recipe.load("tiny")
    write_shards(open_source("photos:?tiles=20"), folder / DATA, recipe.data)
    (folder / RUN / "evaluations").mkdir(parents=True)
    (folder / RUN / "evaluations" / "key.json").write_text("{}")
    write_json(folder / RUN / "recipe.json", recipe.model_dump(mode="json"))
    return folder


def test_every_flow_of_a_command_is_among_these() -> None:
    text = "".join(file.read_text() for file in Path(commands.__file__).parent.glob("*.py"))
    assert sorted(re.findall(r'flow\("\w+", "(\w+)"\)', text)) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_what_a_command_gives_its_flow_is_what_that_takes(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Taken(Exception):
        """In place of the flow's work, which is not to be done here."""

    def flow(module: str, flow: str) -> Any:
        whole = getattr(importlib.import_module(f"flows.{module}"), flow)

        def call(*given: Any, **named: Any) -> None:
            bound = inspect.signature(whole.fn).bind(*given, **named)
            whole.validate_parameters(bound.arguments)
            raise Taken(flow)

        return call

    for module in (stages, averages, evaluating, papers, superres, reflow, models):
        monkeypatch.setattr(module, "flow", flow)
        monkeypatch.setattr(module, "services", lambda *_: nullcontext())
        monkeypatch.setattr(module, "look", lambda *_: None)  # for ports
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, COMMANDS[name])
    assert isinstance(done.exception, Taken) and done.exception.args == (name,), (done.exception, done.output)

"""The front door: prefect.yaml deployed from a second folder, the form opened in a browser, a run started from it.

The run that comes out of it is the one that the other tests of the finished pipeline look at.
"""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from fm.recipe import Recipe
from flows import deployments
from infra.services import Services, ask

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="session")
def clone(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project's files in another folder, deployed from there."""
    folder = tmp_path_factory.mktemp("second") / "clone"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def deployed(services: Services) -> dict[str, Any]:
    return {d["name"]: d for d in ask(f"{services.prefect_api}/deployments/filter", body={})}


def test_the_file_is_the_one_that_the_presets_give() -> None:
    assert deployments.FILE.read_text() == deployments.text(), "run `python -m flows.deployments`"


def test_the_file_names_no_folder_of_a_machine() -> None:
    text = deployments.FILE.read_text()
    assert str(ROOT) not in text
    assert not re.search(r"(?m)[:\s'\"]/[a-z]+/", text)
    assert all(not Path(d["entrypoint"]).is_absolute() for d in yaml.safe_load(text)["deployments"])


def test_every_flow_and_every_preset_is_deployed(services: Services, clone: Path) -> None:
    there = deployed(services)
    assert {"prepare", "train", "evaluate", "pipeline", "pipeline-demo", "pipeline-tiny"} <= set(there)
    assert Recipe.parse(there["pipeline-tiny"]["parameters"]["recipe"]) == Recipe.load("tiny")
    (step,) = there["pipeline-tiny"]["pull_steps"]
    assert step == {"prefect.deployments.steps.set_working_directory": {"directory": str(clone)}}


@pytest.mark.timeout(400)
def test_a_run_is_started_from_the_form(services: Services, clone: Path, browser: Any, tmp_path: Path) -> None:
    deployment = deployed(services)["pipeline-tiny"]["id"]
    page = browser.new_page(viewport={"width": 1300, "height": 1600})
    page.goto(f"{services.prefect_api.removesuffix('/api')}/deployments/deployment/{deployment}/run")
    page.get_by_text("Parameters", exact=True).first.wait_for(timeout=60_000)
    page.wait_for_timeout(2000)
    shown = page.inner_text("body")
    for words in ("Side of the images in pixels, 4 to 1024", "images in one step", "UNetSettings", "OTPath", "VPPath"):
        assert words.lower() in shown.lower(), f"the form does not show {words!r}"
    values = page.eval_on_selector_all("input, textarea", "all => all.map(one => one.value)")
    recipe = Recipe.load("tiny")
    for value in (recipe.data.size, recipe.training.batch_images, recipe.training.total_images):
        assert str(value) in values, f"the form does not hold the preset's {value}"
    page.screenshot(path=tmp_path / "form.png", full_page=True)
    page.get_by_role("button", name="Submit").click()
    state = wait_for_end(services, deployment)
    assert (state["type"], state["message"]) == ("COMPLETED", None)
    assert (clone / "runs" / "tiny" / "report.html").exists()


def wait_for_end(services: Services, deployment: str, limit_s: float = 300) -> dict[str, Any]:
    """The final state of the deployment's newest flow run."""
    query = {"deployments": {"id": {"any_": [deployment]}}, "sort": "START_TIME_DESC", "limit": 1}
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        runs = ask(f"{services.prefect_api}/flow_runs/filter", body=query)
        if runs and runs[0]["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            return runs[0]["state"]
        time.sleep(0.5)
    raise AssertionError(f"no end after {limit_s:.0f} s: {json.dumps(runs)[:500]}")

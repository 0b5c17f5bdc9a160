"""The front door: the form of a deployment, opened in a browser, and a run started from it."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from fm.recipe import Recipe
from infra.services import ask


@pytest.mark.timeout(400)
def test_a_run_is_started_from_the_form(deployed: Any, browser: Any, tmp_path: Path) -> None:
    deployment = deployed.deployments["pipeline-tiny"]["id"]
    page = browser.new_page(viewport={"width": 1300, "height": 1600})
    page.goto(f"{deployed.api.removesuffix('/api')}/deployments/deployment/{deployment}/run")
    page.get_by_text("Parameters", exact=True).first.wait_for(timeout=60_000)
    page.get_by_text("OTPath").wait_for(timeout=60_000)
    shown = page.inner_text("body").lower()
    for words in (
        "side of the images in pixels, 4 to 1024",
        "images in one step",
        "unetsettings",
        "otpath",
        "vppath",
        "start_at",
    ):
        assert words in shown, f"the form does not show {words!r}"
    values = page.eval_on_selector_all("input, textarea", "all => all.map(one => one.value)")
    recipe = Recipe.load("tiny")
    for value in ("photos:", recipe.data.size, recipe.training.batch_images, recipe.training.total_images):
        assert str(value) in values, f"the form does not hold the preset's {value}"
    batch = page.locator("input").nth(page.eval_on_selector_all("input", "all => all.findIndex(i => i.value === '64')"))
    batch.fill("0")
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("batch_images").first.wait_for(timeout=30_000)  # refused, with the key and the reason
    assert page.url.endswith("/run")
    batch.fill("64")
    page.screenshot(path=tmp_path / "form.png", full_page=True)
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url(lambda url: not url.endswith("/run"), timeout=30_000)
    ended = deployed.wait(deployed.newest("pipeline-tiny"))
    assert (ended["state"]["type"], ended["state"]["message"]) == ("COMPLETED", None)
    assert ended["name"] == "pipeline tiny fm-ot batch 64: runs/tiny"
    assert (deployed.folder / "runs" / "tiny" / "report.html").exists()
    page.close()


@pytest.mark.timeout(300)
def test_prefects_second_pages_show_the_form_too_and_are_not_where_one_begins(deployed: Any, browser: Any) -> None:
    """At /v2: the same texts and values, and ranges that the browser itself holds. Their maker's servers, which they
    would ask, are asked nothing."""
    site, deployment = deployed.api.removesuffix("/api"), deployed.deployments["pipeline-tiny"]["id"]
    page, asked, refused = browser.new_page(viewport={"width": 1300, "height": 1600}), [], []
    page.on("request", lambda one: asked.append(one.url))
    page.on("requestfailed", lambda one: refused.append((one.url, one.failure)))
    page.goto(f"{site}/")
    page.get_by_text("Deployments").first.wait_for(timeout=60_000)
    assert "/v2" not in page.url
    assert [url for url in asked if not url.startswith((site, "data:", "blob:"))] == []

    page.goto(f"{site}/v2/deployments/deployment/{deployment}/run")
    page.get_by_text("OTPath").first.wait_for(timeout=60_000)
    shown = page.inner_text("body")
    for words in ("Side of the images in pixels, 4 to 1024", "images in one step", "UNetSettings", "VPPath", "dopri5"):
        assert words in shown, f"the form does not show {words!r}"
    values = page.eval_on_selector_all("input, textarea", "all => all.map(one => one.value)")
    recipe = Recipe.load("tiny")
    for value in ("photos:", "runs/tiny", recipe.data.size, recipe.training.batch_images, recipe.training.total_images):
        assert str(value) in values, f"the form does not hold the preset's {value}"
    batch = page.locator("input, textarea").nth(values.index(str(recipe.training.batch_images)))
    batch.fill("0")
    page.get_by_role("button", name="Submit").click()
    assert "greater than or equal to 1" in batch.evaluate("one => one.validationMessage")
    assert page.url.endswith("/run")
    by_name = site.replace("127.0.0.1", "localhost")  # which the server does not know itself by
    page.goto(f"{by_name}/deployments")
    page.get_by_text("pipeline-demo", exact=True).first.wait_for(timeout=60_000)
    outside = {url for url in asked if not url.startswith((site, by_name, "data:", "blob:"))}
    assert outside <= {url for url, why in refused if why == "csp"}, (outside, refused)
    page.close()


def test_a_value_out_of_range_is_refused_before_a_run_exists(deployed: Any) -> None:
    from urllib.error import HTTPError

    recipe = Recipe.load("tiny").model_dump(mode="json")
    recipe["training"]["batch_images"] = 0
    with pytest.raises(HTTPError) as error:
        deployed.start("pipeline-tiny", {"recipe": recipe})
    assert error.value.code == 409
    assert "batch_images" in error.value.read().decode()


def test_a_rule_across_fields_fails_the_run_with_one_sentence(deployed: Any) -> None:
    recipe = Recipe.load("tiny").model_dump(mode="json")
    recipe["data"]["size"] = 15
    started = deployed.start("pipeline-tiny", {"recipe": recipe, "run": "runs/wrong"})
    ended = deployed.wait(started, limit_s=90)  # most of it until the process runs
    assert ended["state"]["type"] == "FAILED"
    states = ask(f"{deployed.api}/flow_run_states/?flow_run_id={started}")
    entered = {one["type"]: datetime.fromisoformat(one["timestamp"]) for one in states}
    assert (entered["FAILED"] - entered["RUNNING"]).total_seconds() < 5
    assert ended["state"]["message"].startswith("model.multiples: image size 15 is not divisible by 2")
    assert not (deployed.folder / "runs" / "wrong").exists()
    (left,) = ask(f"{deployed.api}/artifacts/filter", {"flow_runs": {"id": {"any_": [started]}}})
    assert left["key"] == "failed" and ended["state"]["message"] in left["data"]
    assert "The same form again" in left["data"] and "`fm" not in left["data"]  # there is no RUN to take a recipe from


def test_a_deployment_older_than_the_code_fails_with_the_setting_that_is_gone(deployed: Any) -> None:
    """As after `git pull` without `fm up`: the server's form still has what the code no longer knows."""
    older = {**deployed.deployments["pipeline-tiny"], "name": "older", "enforce_parameter_schema": False}
    older["parameters"] = json.loads(json.dumps(older["parameters"]))
    older["parameters"]["recipe"]["training"]["momentum"] = 0.9
    keys = ("name", "flow_id", "entrypoint", "path", "pull_steps", "work_pool_name", "job_variables", "parameters")
    made = ask(f"{deployed.api}/deployments/", body={key: older[key] for key in keys})
    started = ask(f"{deployed.api}/deployments/{made['id']}/create_flow_run", body={"state": {"type": "SCHEDULED"}})[
        "id"
    ]
    ended = deployed.wait(started, limit_s=90)
    assert ended["state"]["type"] == "FAILED"
    assert ended["state"]["message"].endswith("recipe.training.momentum: Extra inputs are not permitted")

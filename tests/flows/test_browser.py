"""What an operator does in a browser: start, watch, cancel, start again, look at artifacts, at MLflow, at the report.

With FM_SCREENSHOTS set to a folder the pictures of README.md are written there; its demo.png is the top of a report of
`make demo`.
"""

import os
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from fm.checkpoints import newest
from fm.files import read_json
from fm.records import read
from infra.services import ask
from infra.state import Record
from tests.conftest import STATE
from tests.flows.test_cancelling import training_workers

WIDE = {"width": 1300, "height": 900}


@pytest.fixture
def shot(tmp_path: Path) -> Callable[[Any, str], Path]:
    folder = Path(os.environ.get("FM_SCREENSHOTS", tmp_path))

    def take(page: Any, name: str) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        file, whole = folder / f"{name}.png", Image.open(BytesIO(page.screenshot())).convert("RGB")
        whole.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)  # a third of the bytes
        return file

    return take


def until(found: Callable[[], Any], limit_s: float, every_s: float = 0.2) -> Any:
    deadline = time.monotonic() + limit_s
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(every_s)
    return value


def images_seen(run: Path) -> int:
    rows = read(run / "records") if (run / "records").exists() else []
    return rows[-1]["images_seen"] if rows else 0


def scroll_to(page: Any, text: str) -> None:
    """Turns the wheel until the text is there: Prefect's page draws cards when they are scrolled to."""
    page.mouse.move(700, 700)
    shown = page.get_by_text(text).filter(visible=True)  # a tab that is hidden may have it too
    until(lambda: page.mouse.wheel(0, 300) or shown.count(), 60)


def badge(page: Any, state: str) -> None:
    """Waits until a flow run's page itself shows the state, whose word stands alone there."""
    page.get_by_text(state, exact=True).filter(visible=True).first.wait_for(timeout=60_000)


def fill(page: Any, old: str, new: str) -> None:
    """Another value for the one field of the form that holds this one: labels are not tied to their fields."""
    find = f"all => all.findIndex(one => one.value === {old!r})"
    page.locator("input, textarea").nth(page.eval_on_selector_all("input, textarea", find)).fill(new)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_start_cancel_start_again_and_a_worker_that_dies(deployed: Any, browser: Any, shot: Any) -> None:
    run, page = deployed.folder / "runs" / "from-the-page", browser.new_page(viewport=WIDE)
    site, deployment = deployed.api.removesuffix("/api"), deployed.deployments["pipeline-demo"]["id"]
    page.goto(f"{site}/deployments/deployment/{deployment}/run")
    page.get_by_text("OTPath").wait_for(timeout=90_000)
    fill(page, "runs/demo", "runs/from-the-page")
    shot(page, "form")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url(lambda url: not url.endswith("/run"), timeout=60_000)
    first = deployed.newest("pipeline-demo")

    page.goto(f"{site}/runs/flow-run/{first}")
    until(lambda: images_seen(run) >= 640, 300)
    assert len(training_workers()) == 2
    page.get_by_text("images seen").first.wait_for(timeout=60_000)  # the log, as it comes
    shot(page, "watching")
    page.locator(".flow-run-menu").first.click()
    page.get_by_text("Cancel", exact=True).click()
    page.get_by_role("button", name="Confirm").click()
    start = time.monotonic()
    until(lambda: not training_workers(), 20)
    assert time.monotonic() - start < 10
    assert deployed.wait(first, limit_s=60)["state"]["type"] == "CANCELLED"
    badge(page, "Cancelled")
    left = newest(run)
    assert left and left.images_seen >= 640

    page.goto(f"{site}/runs/flow-run/{first}")
    page.locator(".flow-run-menu").first.click()
    page.get_by_text("Copy to new run").click()
    page.get_by_text("OTPath").wait_for(timeout=60_000)
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url(lambda url: "/run" not in url.rpartition("/")[2], timeout=60_000)
    again = until(lambda: deployed.newest("pipeline-demo") != first and deployed.newest("pipeline-demo"), 60)
    until(lambda: images_seen(run) > left.images_seen + 640, 300)
    worker = Record.load(STATE).processes["worker"]
    psutil.Process(worker.pid).kill()
    restarted = until(
        lambda: (one := Record.load(STATE).processes.get("worker")) and one.pid != worker.pid and one, 120
    )
    ended = deployed.wait(again, limit_s=400)
    assert ended["state"]["type"] == "COMPLETED", ended["state"]
    assert psutil.Process(restarted.pid).is_running()
    begun = [row["images_seen"] for row in read(run / "records", after=-1, name="starts")]
    assert begun == [0, left.images_seen]
    last = newest(run)
    assert last and last.images_seen > left.images_seen and last.seconds >= 140  # the preset's end

    page.goto(f"{site}/runs/flow-run/{again}?tab=Artifacts")
    badge(page, "Completed")
    page.get_by_text("Artifacts", exact=True).first.click()
    for key in ("results", "samples", "mlflow"):
        scroll_to(page, key)
    shot(page, "artifacts")
    (samples,) = [
        one
        for one in ask(f"{deployed.api}/artifacts/filter", {"flow_runs": {"id": {"any_": [again]}}})
        if one["key"] == "samples"
    ]
    page.goto(f"{site}/artifacts/artifact/{samples['id']}")
    picture = page.locator("img[src^='data:image/png']").first
    picture.wait_for(timeout=60_000)
    assert picture.evaluate("one => one.naturalWidth") > 100
    shot(page, "samples")
    page.close()


@pytest.mark.timeout(300)
def test_mlflow_shows_curves_and_pictures_of_the_run(finished: Path, browser: Any, shot: Any) -> None:
    page = browser.new_page(viewport=WIDE)
    parent = read_json(finished / "session.json")["mlflow"]
    address = parent.partition("/#/")[0]
    page.goto(address)  # as who knows nothing but the address
    page.get_by_text("Model training", exact=True).click(timeout=60_000)
    page.get_by_text("flow-matching", exact=True).first.click()
    page.get_by_text("tiny (tiny)").first.wait_for(timeout=60_000)
    page.goto(parent)  # as who follows the link
    page.get_by_text("tiny (tiny)").first.wait_for(timeout=60_000)
    page.get_by_text("training.batch_images").first.wait_for(timeout=60_000)
    page.locator("a[href*='/runs/']", has_text="train").first.click()
    page.get_by_text("Model metrics").first.click()
    page.get_by_text("train (train/loss)", exact=True).first.wait_for(timeout=90_000)
    page.locator("[data-component-id='mlflow.assistant.chat_panel.close']").click()
    until(lambda: page.locator("svg.main-svg").count() > 3, 60)  # curves, drawn
    shot(page, "mlflow")
    page.mouse.move(700, 600)
    until(lambda: page.mouse.wheel(0, 5000) or page.get_by_role("slider").count(), 60)  # drawn when scrolled to
    page.get_by_role("slider").first.press("ArrowRight")  # MLflow begins at step 0, where there is no grid
    grid = page.locator("img[src*='get-artifact?path=images']").first
    grid.wait_for(timeout=60_000)
    until(lambda: grid.evaluate("one => one.naturalWidth") > 60, 30)
    page.goto(parent.replace("?", "/artifacts/report/samples.png?"))
    picture = page.locator("img[src*='samples.png'], img[src^='blob:']").first
    picture.wait_for(timeout=60_000)
    until(lambda: picture.evaluate("one => one.naturalWidth") > 100, 30)
    page.close()


@pytest.mark.timeout(120)
def test_the_report_asks_nobody_and_has_no_error(finished: Path, browser: Any, shot: Any) -> None:
    page, asked, errors = browser.new_page(viewport=WIDE), [], []
    page.on("request", lambda one: asked.append(one.url))
    page.on("console", lambda one: errors.append(one.text) if one.type == "error" else None)
    page.on("pageerror", lambda one: errors.append(str(one)))
    page.goto((finished / "report.html").as_uri())
    page.get_by_text("bits/dim").first.wait_for(timeout=30_000)
    assert errors == [] and [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert page.locator("img").count() > 3
    assert all(page.eval_on_selector_all("img", "all => all.map(one => one.naturalWidth > 0)"))
    shot(page, "report")
    page.close()

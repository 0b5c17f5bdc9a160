"""A flow run is cancelled, or suspended, where a user does it; the same form, or its page, lets it go on."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from fm.checkpoints import newest
from fm.recipe import Recipe
from fm.records import read
from infra import processes
from infra.services import ask
from tests.conftest import STATE


def training_workers() -> list[int]:
    """The pids of those of this test run's Ray; another training on the machine has its own."""
    found = []
    for process in processes.belonging(STATE, marked=True):
        with suppress(psutil.Error):  # ended meanwhile
            found += [process.pid] * ("RayTrainWorker" in " ".join(process.cmdline()))
    return found


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_cancelled_work_stops_soon_and_the_same_form_goes_on(deployed: Any) -> None:
    recipe = Recipe.load("tiny", ["training.total_images=6400"]).model_dump(mode="json")
    run, form = deployed.folder / "runs" / "cancelled", {"recipe": recipe, "run": "runs/cancelled"}
    first = deployed.start("pipeline-tiny", form)
    deadline = time.monotonic() + 200
    while seen(run) < 640:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert len(training_workers()) == 2
    ask(f"{deployed.api}/flow_runs/{first}/set_state", {"state": {"type": "CANCELLING"}})
    start = time.monotonic()
    while training_workers():
        assert time.monotonic() - start < 10
        time.sleep(0.1)
    assert deployed.wait(first, limit_s=30)["state"]["type"] == "CANCELLED"
    left = newest(run)
    assert left and left.images_seen >= 640  # they left with a checkpoint

    again = deployed.wait(deployed.start("pipeline-tiny", form))
    assert again["state"]["type"] == "COMPLETED", again["state"]
    gone_on(run, left.images_seen)


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_suspended_work_leaves_and_resumed_it_goes_on(deployed: Any) -> None:
    recipe = Recipe.load("tiny", ["training.total_images=6400"]).model_dump(mode="json")
    run = deployed.folder / "runs" / "suspended"
    name = deployed.start("pipeline-tiny", {"recipe": recipe, "run": "runs/suspended"})
    at = f"{deployed.api}/flow_runs/{name}"
    deadline = time.monotonic() + 200
    while seen(run) < 640:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    # As Prefect's page does it.
    suspended = {"type": "PAUSED", "name": "Suspended", "state_details": {"pause_reschedule": True}}
    assert ask(f"{at}/set_state", {"state": suspended})["status"] == "ACCEPT"
    start = time.monotonic()
    while training_workers():
        assert time.monotonic() - start < 20
        time.sleep(0.1)
    time.sleep(5)  # its process ends too
    left = newest(run)
    assert left and 640 <= left.images_seen < 6400
    assert ask(at)["state"]["name"] == "Suspended"
    assert ask(f"{at}/resume", {})["status"] == "ACCEPT"
    done = deployed.wait(name)
    assert done["state"]["type"] == "COMPLETED", done["state"]
    gone_on(run, left.images_seen)


def seen(run: Path) -> int:
    rows = read(run / "records") if (run / "records").exists() else []
    return rows[-1]["images_seen"] if rows else 0


def gone_on(run: Path, images_seen: int) -> None:
    """It began a second time, there, and came to its end."""
    begun = read(run / "records", after=-1, name="starts")
    assert [row["images_seen"] for row in begun][1:] == [images_seen]
    assert newest(run).images_seen == 6400  # type: ignore[union-attr]

"""A RUN with ten real checkpoints: points in the plane, trained in a second."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fm.demo2d.plan import Plan, recipe
from fm.demo2d.training import train_run
from fm.models import MLPSettings
from fm.paths import OTPath
from fm.recipe import opened


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    changes = {"batch_images": 64, "total_images": 640, "report_images": 320, "save_images": 64, "keep": 20}
    training = Plan().training.model_copy(update=changes)
    made = recipe("two_moons", OTPath(), Plan(model=MLPSettings(width=16, depth=2), training=training))
    with opened(tmp_path_factory.mktemp("trained") / "run", made) as run:
        train_run(run, made)
    kept = made.model_copy(update={"training": training.model_copy(update={"keep": 3, "keep_every_images": 256})})
    with opened(run, kept):
        pass
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, whose recipe keeps the newest 3 and the first of every 256 images."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def later() -> Callable[[float], float]:
    """later(hours): the Unix time in so many hours."""
    return lambda hours: time.time() + 3600 * hours

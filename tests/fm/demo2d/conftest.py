from pathlib import Path

import pytest

from fm.data.plane import Points
from fm.demo2d import training
from fm.demo2d.measuring import Measured, measure
from fm.demo2d.plan import Plan, recipe
from fm.flow import Flow
from fm.models import MLPSettings
from fm.paths import OTPath, VPPath
from fm.paths import Path as ProbabilityPath
from fm.recipe import load, opened


@pytest.fixture(scope="session")
def small() -> Plan:
    """A demonstration of seconds, whose network has already learned where the points are."""
    plan = Plan()
    changes = {"total_images": 60_000, "warmup_images": 2_000, "report_images": 20_000, "save_images": 20_000}
    return plan.model_copy(
        update={
            "model": MLPSettings(width=64, depth=3),
            "training": plan.training.model_copy(update=changes),
            **{"nfe": (4, 8), "samples": 400, "densities": 200, "paths": 150, "steps": 20, "heldout": 200},
        }
    )


def trained(path: ProbabilityPath, plan: Plan, folder: Path) -> Path:
    """RUN of the two moons on a path."""
    made = recipe("two_moons", path, plan)
    with opened(folder / made.name, made) as run:
        training.train_run(run, made)
    return run


@pytest.fixture(scope="session")
def moons(small: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RUN of the two moons on the OT path, trained."""
    return trained(OTPath(), small, tmp_path_factory.mktemp("plane"))


@pytest.fixture(scope="session")
def flow(moons: Path) -> Flow:
    return load(moons)


@pytest.fixture(scope="session")
def found(flow: Flow, small: Plan) -> Measured:
    return measure(flow, Points(distribution="two_moons"), small)


@pytest.fixture(scope="session")
def found_vp(small: Plan, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """The same network, points and noise on the VP path."""
    return measure(
        load(trained(VPPath(), small, tmp_path_factory.mktemp("vp"))), Points(distribution="two_moons"), small
    )

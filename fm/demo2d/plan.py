"""What `fm demo2d` trains and how much it measures; the same for every path, but for the path."""

from pydantic import Field

from fm.data.plane import Points
from fm.models import MLPSettings
from fm.paths import AnyPath, OTPath, VPPath
from fm.recipe import PointRecipe
from fm.settings import Settings
from fm.training import Training

PATHS: tuple[AnyPath, ...] = (OTPath(), VPPath())


class Plan(Settings):
    """Sizes of the demonstration; the defaults take about two minutes on two cores for one distribution."""

    model: MLPSettings = MLPSettings(width=256, depth=5)
    training: Training = Training(
        batch_images=256,
        total_images=1_600_000,
        learning_rate=5e-3,
        schedule="cosine",
        warmup_images=32_000,
        ema_halflife_kimg=1_000.0,
        ema_ramp=0.05,
        stratify=True,
        report_images=80_000,
        save_images=160_000,
        keep=1,
    )
    nfe: tuple[int, ...] = Field((4, 8, 10, 16, 20), description="midpoint budgets that are measured, even numbers")
    samples: int = Field(6000, ge=20, description="points compared with as many true ones, for each budget")
    densities: int = Field(12_000, ge=20, description="states in each picture of a density")
    paths: int = Field(2000, ge=20, description="trajectories whose shape is measured")
    steps: int = Field(100, ge=2, description="equal steps in t at which a trajectory is seen")
    heldout: int = Field(2000, ge=20, description="held-out points for the likelihood")


def recipe(distribution: str, path: AnyPath, plan: Plan) -> PointRecipe:
    """The training of one distribution on one path; its name is its RUN's."""
    return PointRecipe(
        name=f"{distribution}-{path.kind}",
        data=Points(distribution=distribution),
        model=plan.model,
        path=path,
        objective="flow_matching",
        class_conditional=False,
        training=plan.training,
    )

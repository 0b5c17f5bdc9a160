"""What comes before a training on drawn images: they are drawn, in Ray's slots, and its first weights laid ready."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from fm.checkpoints import Saved
from fm.data import Preparation, inputs_digest
from fm.data.addresses import is_address
from fm.publishing import begin_with
from fm.recipe import Recipe
from fm.reflow import TOLERANCE, drawn_by
from fm.runs import of, pulled
from tasks import cluster
from tasks.prepare import prepared, published
from tasks.retrying import PATIENTLY
from tasks.tracking import Tracking
from tasks.train import Pairs


@task(name="draw", cache_policy=NO_CACHE, **PATIENTLY)
def draw(
    teacher: str,
    saved: Saved,
    run: Path,
    recipe: Recipe,
    settings: Preparation,
    images: int,
    tracking: Tracking,
    tolerance: float = TOLERANCE,
) -> Pairs:
    """The images that RUN's recipe is trained on, drawn by the teacher's weights unless they stand beside RUN; and its
    first weights, if they are the teacher's.

    teacher: folder or address, as every machine finds it; settings: how the real images were prepared.
    """
    source = drawn_by(teacher, saved.weights, recipe.training.seed, images, tolerance)
    data = run.parent / "data" / f"drawn-{settings.size}-{inputs_digest(source, settings)}"
    with tracking.stage("draw"):
        if recipe.training.initial_weights:
            begin_with(Path(pulled(teacher)), saved.weights, run)
        here = is_address(of(run))
        manifest = prepared(source, data, settings, None, here, cluster.gpus_each())
        return Pairs(published(data, run), manifest)

"""What comes before a training on drawn images: they are drawn, in Ray's slots, and its first weights laid ready."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from fm.data import Preparation, inputs_digest, settled
from fm.data.addresses import is_address
from fm.publishing import begin_with, note_used
from fm.recipe import Recipe
from fm.reflow import Drawn
from fm.runs import of, pulled
from tasks import cluster
from tasks.prepare import prepared, published
from tasks.retrying import PATIENTLY
from tasks.tracking import Tracking
from tasks.train import Pairs


@task(name="draw", cache_policy=NO_CACHE, **PATIENTLY)
def draw(source: Drawn, run: Path, recipe: Recipe, settings: Preparation, tracking: Tracking) -> Pairs:
    """The images that RUN's recipe is trained on, drawn unless they stand beside RUN; and its first weights, if they
    are the teacher's, whose checkpoint is noted there as one that stays.

    settings: how the real images were prepared.
    """
    data = run.parent / "data" / f"drawn-{settings.size}-{inputs_digest(source, settings)}"
    with tracking.stage("draw"):
        if recipe.training.initial_weights:
            begin_with(Path(pulled(source.run)), source.weights, run)
        note_used(source.run, source.weights, f"draws for {of(run)}")
        here = is_address(of(run))
        manifest = prepared(source, data, settings, None, here, cluster.gpus_each())
        there = published(data, run)
        return Pairs(there, manifest, source.facts(settled(there), manifest))

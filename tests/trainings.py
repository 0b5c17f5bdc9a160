"""A training in this process, as a Ray worker runs it, for tests that need a RUN and no services."""

from pathlib import Path

from fm.data import ShardedImages
from fm.facts import on_data
from fm.publishing import begin_with, published_weights
from fm.recipe import Recipe, opened
from tasks import on_workers


def train_here(run: Path, data: Path, recipe: Recipe, initial: Path | None = None) -> Path:
    """RUN, trained on DATA by one worker; `initial` is a published network with whose weights the recipe begins."""
    with opened(run, recipe) as folder:
        on_data(folder, data, ShardedImages(data).manifest)
        if initial:
            begin_with(initial, published_weights(initial), folder)
    on_workers.training({"recipe": recipe.model_dump(mode="json"), "data": str(data), "run": str(run)})
    return run

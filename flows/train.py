"""One stage: shards -> trained network."""

from prefect import flow

from fm.data import load_manifest
from fm.facts import check_trainable
from fm.recipe import Recipe, opened
from tasks import cluster, failing, tracking, watching
from tasks.place import Place
from tasks.train import train


@flow(name="train", flow_run_name="train {recipe.name} {recipe.method} batch {recipe.training.batch_images}: {run}")
@failing.in_sentences
def train_run(data: str, run: str, recipe: Recipe, place: Place = Place()) -> str:  # noqa: B008
    """Trains a network on prepared data, from its newest good checkpoint.

    Args:
        data: Folder that prepare filled, relative to the project, or its address (s3://bucket/data).
        run: Folder of this training and its results, new or to be continued, or its address (s3://bucket/runs/mine).
        recipe: Everything that may change a number. The values shown are those of the preset.
        place: Where it runs. Changes no number beyond rounding.
    """
    manifest = load_manifest(data)
    recipe = recipe.model_copy(update={"data": manifest.settings})  # the data say themselves how they were prepared
    check_trainable(run)
    recipe.check(place.workers, place.fewest)
    with (
        opened(run, recipe) as folder,
        tracking.tracked(folder, recipe) as copy,
        cluster.session(place, copy.joined, watching.flow_run_url()),
    ):
        return train(data, manifest, folder, recipe, copy).weights

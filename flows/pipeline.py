"""The whole job, in order: pictures -> shards -> trained network -> rows -> report."""

from prefect import flow

from fm.recipe import Recipe, check_trainable, opened
from tasks import cluster, failing, tracking
from tasks.evaluate import all_measured, evaluate, judgeable, ready
from tasks.place import Place
from tasks.prepare import folder_for, prepare, published
from tasks.report import report
from tasks.train import train


@flow(name="pipeline", flow_run_name="pipeline {recipe.name}: {run}")
@failing.in_sentences
def pipeline(source: str, run: str, recipe: Recipe, place: Place = Place()) -> str:  # noqa: B008
    """From pictures to a report. A stage whose inputs did not change is not done again.

    Args:
        source: Pictures: a folder with a folder for each class, a WebDataset tar, or photos: for built-in photographs.
        run: Folder of this training and its results, new or to be continued, or its address (s3://bucket/runs/mine).
        recipe: Everything that may change a number. The values shown are those of the preset.
        place: Where it runs. Changes no number beyond rounding.
    """
    check_trainable(run)
    recipe.check(place.workers, place.fewest)
    ready(recipe.evaluation.features, place)
    with opened(run, recipe) as folder, tracking.tracked(folder, recipe) as copy, cluster.session(place):
        data = folder_for(source, recipe.data, folder.parent)
        manifest = judgeable(prepare(source, data, recipe.data, copy))
        saved = train(published(data, folder), manifest, folder, recipe, copy)
        rows = evaluate(folder, recipe, saved, copy)
        page = report(folder, recipe, saved, rows, copy)
        all_measured(run, rows)
        return str(page)

"""The whole job, in order: pictures -> shards -> trained network -> rows -> report."""

from prefect import flow

from fm.data import open_source
from fm.facts import check_trainable
from fm.recipe import Recipe, opened
from tasks import cluster, failing, standing, tracking, watching
from tasks.evaluate import all_measured, evaluate, ready
from tasks.place import Pictures, Place
from tasks.prepare import prepare, published
from tasks.report import report
from tasks.standing import Stage, folder_for, judgeable, onward
from tasks.train import train


@flow(
    name="pipeline", flow_run_name="pipeline {recipe.name} {recipe.method} batch {recipe.training.batch_images}: {run}"
)
@failing.in_sentences
def pipeline(source: Pictures, run: str, recipe: Recipe, place: Place = Place(), start_at: Stage = "prepare") -> str:  # noqa: B008
    """From pictures to a report. A stage whose inputs did not change is not done again.

    Args:
        source: Pictures: a folder with a folder for each class, a WebDataset tar, or photos: for built-in photographs.
        run: Folder of this training and its results, new or to be continued, or its address (s3://bucket/runs/mine).
        recipe: Everything that may change a number. The values shown are those of the preset.
        place: Where it runs. Changes no number beyond rounding.
        start_at: The first stage that runs: prepare, train, evaluate or report. What comes before it must be there.
    """
    check_trainable(run)
    recipe.check(place.workers, place.fewest)
    ready(recipe.evaluation.features, place)
    stages = onward(start_at)
    with (
        opened(run, recipe) as folder,
        tracking.tracked(folder, recipe) as copy,
        cluster.session(place, copy.joined, watching.flow_run_url()),
    ):
        data = folder_for(source, recipe.data, folder.parent)
        if "prepare" in stages:
            manifest = prepare(source, data, recipe.data, copy)
        else:
            manifest = standing.prepared(open_source(source), data, recipe.data, folder).needed("prepare", data)
        judgeable(manifest, recipe)
        if "train" in stages:
            saved = train(published(data, folder), manifest, folder, recipe, copy)
        else:
            saved = standing.trained(folder, recipe, manifest).needed("train", run)
        if "evaluate" in stages:
            rows = evaluate(folder, recipe, saved, copy)
        else:
            rows = standing.measured(folder, standing.jobs(folder, recipe, saved)).needed("evaluate", run)
        page = report(folder, recipe, saved, rows, copy)
        all_measured(run, rows)
        return str(page)

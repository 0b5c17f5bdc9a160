"""One stage: trained network -> rows and report."""

from typing import Any

from prefect import flow

from fm.cells import Evaluation
from fm.data import load_manifest
from fm.facts import on_data
from fm.recipe import Recipe, opened
from fm.results import existing_row
from fm.runs import pulled
from tasks import cluster, failing, tracking, watching
from tasks.evaluate import all_measured, evaluate, ready, same_again, trained
from tasks.place import Place
from tasks.report import report


@flow(name="evaluate", flow_run_name="evaluate {run}")
@failing.in_sentences
def evaluate_run(run: str, data: str = "", evaluation: Evaluation | None = None, place: Place = Place()) -> str:  # noqa: B008
    """Measures a trained network at every point of the solver grid, in parallel, and writes the report.

    Args:
        run: Folder of a training, relative to the project, or its address (s3://bucket/runs/mine).
        data: Folder or address of the data it was trained on, if they have moved since.
        evaluation: What is measured; none for what the training's recipe says.
        place: Where it runs. Changes no number beyond rounding.
    """
    recipe = Recipe.load(pulled(run), {} if evaluation is None else {"evaluation": evaluation.model_dump(mode="json")})
    recipe.check()
    ready(recipe.evaluation.features, place)
    with (
        opened(run, recipe, note=False) as folder,
        tracking.tracked(folder, recipe) as copy,
        cluster.session(place, copy.joined, watching.flow_run_url()),
    ):
        if data:
            on_data(folder, data, load_manifest(data))
        saved = trained(folder)
        rows = evaluate(folder, recipe, saved, copy)
        page = report(folder, recipe, saved, rows, copy)
        all_measured(run, rows)
        return str(page)


@flow(name="rerun", flow_run_name="rerun rows of {run}")
@failing.in_sentences
def rerun(run: str, keys: tuple[str, ...], place: Place = Place()) -> dict[str, Any]:  # noqa: B008
    """Measures rows again and compares each of their numbers to the last bit.

    Args:
        run: Folder of a training, or its address.
        keys: Of the rows: their files' names in RUN/evaluations.
        place: Where it runs. Changes no number beyond rounding.
    """
    recipe = Recipe.load(pulled(run))
    with opened(run, recipe) as folder, cluster.session(place):
        rows = [existing_row(folder, key) for key in keys]
        for features in {row.get("features", recipe.evaluation.features) for row in rows}:
            ready(features, place)
        return same_again(rows, folder, recipe)

"""Reflow: a trained network draws images, each from a noise of its own; another one is trained on these pairs."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from fm.data import load_manifest, settled
from fm.errors import DataError
from fm.facts import check_data, facts_of
from fm.recipe import Recipe, opened
from fm.reflow import TOLERANCE, Begin, drawing_weights, student
from fm.runs import here, pulled
from tasks import cluster, failing, tracking, watching
from tasks.evaluate import all_measured, evaluate, ready, trained
from tasks.place import Place
from tasks.reflow import draw
from tasks.report import report
from tasks.standing import judgeable
from tasks.train import train


@flow(name="reflow", flow_run_name="reflow {teacher}: {run}")
@failing.in_sentences
def reflow(
    teacher: str,
    run: str,
    images: Annotated[int | None, Field(ge=20, le=100_000_000)] = None,
    begin: Begin = "run",
    tolerance: Annotated[float, Field(ge=1e-9, le=1.0)] = TOLERANCE,
    changes: tuple[str, ...] = (),
    place: Place = Place(),  # noqa: B008
) -> str:
    """A trained network draws images; another one is trained on each with its noise, and needs fewer steps.

    Args:
        teacher: Folder of the training whose network draws, or its address.
        run: Folder of the new training and its results, new or to be continued, or its address.
        images: How many are drawn, 20 to 100,000,000. Empty: as many as there are training images.
        begin: run, with the weights that draw; scratch, with fresh ones.
        tolerance: rtol = atol of dopri5, which draws: 1e-9 to 1.
        changes: Settings changed in the recipe, which is the teacher's, as key=value.
        place: Where it runs. Changes no number beyond rounding.
    """
    there = pulled(teacher, "ema")
    drawing = trained(there)
    facts = facts_of(there)
    if not facts["data"]:
        what = "was imported, and by what data the new network is to be judged is not said"
        raise DataError(what, teacher, "name them: `fm evaluate RUN DATA`")
    manifest, weights = load_manifest(facts["data"]), drawing_weights(here(run), drawing.weights)
    count = images or manifest.splits["train"].images
    frequencies = dict(zip(manifest.classes, manifest.splits["train"].class_images, strict=True))
    teaching = Recipe.load(there)
    recipe, source = student(teaching, settled(teacher), weights, count, begin, tolerance, changes, frequencies)
    recipe.check(place.workers, place.fewest)
    ready(recipe.evaluation.features, place)
    judgeable(manifest, recipe)
    check_data(there, facts["data"], manifest)
    with (
        opened(run, recipe) as folder,
        tracking.tracked(folder, recipe) as copy,
        cluster.session(place, copy.joined, watching.flow_run_url()),
    ):
        check_data(folder, facts["data"], manifest)
        pairs = draw(source, folder, recipe, manifest.settings, copy)
        saved = train(facts["data"], manifest, folder, recipe, copy, pairs)
        rows = evaluate(folder, recipe, saved, copy)
        page = report(folder, recipe, saved, rows, copy)
        all_measured(run, rows)
        return str(page)

"""Post-hoc EMA: averages of many lengths, made after the training, measured alike."""

from pathlib import Path
from typing import Annotated

from prefect import flow
from pydantic import Field

from fm.cells import Budget, Evaluation
from fm.data import load_manifest
from fm.data.addresses import is_address
from fm.errors import SettingsError
from fm.facts import facts_of
from fm.posthoc import planned
from fm.recipe import Recipe, opened
from tasks import cluster, failing, tracking, watching
from tasks.averages import average, shown, swept
from tasks.evaluate import all_measured, ready, trained
from tasks.place import Place


@flow(name="averages", flow_run_name="averages of {run}")
@failing.in_sentences
def averages(
    run: str,
    lengths: tuple[Annotated[float, Field(gt=0, lt=0.288)], ...] = (),
    evaluation: Evaluation | None = None,
    place: Place = Place(),  # noqa: B008
) -> str:
    """Makes averages of many lengths of a training that kept some, and shows which of them draws best.

    Args:
        run: Folder of a training with training.ema_lengths.
        lengths: Of the averages, as shares of the training: above 0, below 0.288. Empty: 0.02 to 0.2.
        evaluation: What each is measured by; none: distances at midpoint with 16 evaluations.
        place: Where it runs. Changes no number beyond rounding.
    """
    if is_address(run):
        raise SettingsError("is at an address, and averages are made in a folder", run, "copy it into one")
    there = Path(run)
    own, last, facts = Recipe.load(there), trained(there), facts_of(there)
    recipe = own.model_copy(update={"evaluation": evaluation or at_one_point(own.evaluation)})
    recipe.check()
    planned(there, last, lengths)
    ready(recipe.evaluation.features, place)
    with (
        opened(run, recipe, note=False) as folder,
        tracking.tracked(folder, recipe) as copy,
        cluster.session(place, copy.joined, watching.flow_run_url()),
    ):
        data = facts["data"]
        found, rows = swept(folder, recipe, last, average(folder, last, lengths), data, load_manifest(data), copy)
        page = shown(folder, last, found, copy)
        all_measured(run, rows)
        return str(page)


def at_one_point(evaluation: Evaluation) -> Evaluation:
    """Distances alone, at a budget at which the network and not the solver decides."""
    point = {"grid": (Budget(solver="midpoint", nfe=16),), "along": None, "guide": None}
    return evaluation.model_copy(update=point | {"nll_images": 0, "nll_training_images": 0, "error_images": 0})

"""Retraining: a challenger is trained on what the data are now, and takes the champion's place only if it is better."""

from typing import Annotated, Any, Literal

from prefect import flow
from prefect.states import State
from pydantic import Field

from fm import presets
from fm.data import load_manifest, settled
from fm.recipe import Recipe, opened
from fm.runs import pulled
from tasks import cluster, failing, registry, scheduling, tracking, watching
from tasks.evaluate import ready, trained
from tasks.place import Place
from tasks.retrain import challenger, from_champion, judged, result, run_for
from tasks.standing import judgeable
from tasks.train import train


@flow(name="retrain", flow_run_name="retrain {model} on {data}")
@scheduling.caught_up_once
@failing.in_sentences
def retrain(
    model: str,
    data: str,
    runs: str = "runs/retrain",
    begin: Literal["champion", "scratch"] = "champion",
    preset: Annotated[str, Field(json_schema_extra={"enum": presets.names()})] = "demo",  # the command takes files too
    changes: tuple[str, ...] = (),
    place: Place = Place(),  # noqa: B008
    added: str = "",
) -> dict[str, Any] | State[Any]:
    """Trains a challenger on the data as they are now; it becomes champion if it is better beyond the uncertainty.

    Args:
        model: Name of the model in MLflow's registry; new, or with a champion.
        data: Folder that prepare filled, relative to the project, or its address.
        runs: Folder in which each challenger gets a RUN of its own.
        begin: champion, its weights are trained further; scratch, fresh weights. The recipe is the champion's.
        preset: The recipe of the first training, where the model has no champion yet.
        changes: Settings changed in the recipe, as key=value.
        place: Where it runs. Changes no number beyond rounding.
        added: Data that got new shards, as the event that starts this says; nothing is done if they are others.
    """
    if added and added != settled(data):
        return scheduling.skipped(f"skipped: the new shards are those of {added}, and this retrains on {settled(data)}")
    manifest, champion = judgeable(load_manifest(data)), registry.champion(model)
    recipe, folder = challenger(champion, manifest, begin, preset, changes, runs)
    recipe.check(place.workers, place.fewest)
    ready(recipe.evaluation.features, place)
    with (
        opened(run_for(recipe, manifest, model, runs), recipe) as run,
        tracking.tracked(run, recipe) as copy,
        cluster.session(place, copy.joined, watching.flow_run_url()),
    ):
        from_champion(folder, recipe, run)
        saved = train(data, manifest, run, recipe, copy)
        return result(model, judged(model, champion, run, recipe, saved, copy))


@flow(name="promote", flow_run_name="promote {run} to {model}")
@failing.in_sentences
def promote(run: str, model: str, place: Place = Place()) -> dict[str, Any]:  # noqa: B008
    """Judges a trained RUN against the champion, and makes it the champion if it is better beyond the uncertainty.

    Args:
        run: Folder of a training, or its address.
        model: Name of the model in MLflow's registry; new, or with a champion.
        place: Where it runs. Changes no number beyond rounding.
    """
    champion, recipe = registry.champion(model), Recipe.load(pulled(run))
    recipe.check()
    ready(recipe.evaluation.features, place)
    with (
        opened(run, recipe, note=False) as folder,
        tracking.tracked(folder, recipe) as copy,
        cluster.session(place, copy.joined, watching.flow_run_url()),
    ):
        return result(model, judged(model, champion, folder, recipe, trained(folder), copy))

"""What a pipeline would do if it were started now, stage by stage, by the stages' own rule. Writes nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fm.data import Manifest, Source, open_source
from fm.errors import SettingsError
from fm.facts import check_data, facts_of, is_trained
from fm.recipe import Recipe, check_recipe
from fm.runs import pulled
from tasks import standing
from tasks.standing import Found, Stage


@dataclass(frozen=True)
class Step:
    """What would become of a stage. `depends`: on what an earlier one makes; `left out`: the start is after it."""

    stage: Stage
    does: Literal["unchanged", "runs", "left out", "depends", "refused"]
    why: str


def planned(source: str, run: str, recipe: Recipe, start_at: Stage = "prepare") -> Iterator[Step]:
    """A step for each stage, down to the first one that would be refused.

    Raises: UserError as the pipeline would before its first stage, or if a stage before `start_at` has left too little.
    """
    folder = pulled(run).resolve()
    check_recipe(folder, recipe, run)
    onward = standing.onward(start_at)
    data = standing.folder_for(source, recipe.data, folder.parent)
    opened = open_source(source)
    manifest = standing.prepared(opened, data, recipe.data, folder)
    yield _step("prepare", manifest, onward, data)
    if manifest.left is None:
        yield from _undecided(opened, recipe, folder)
        return
    standing.judgeable(manifest.left, recipe)
    try:
        check_data(folder, data, manifest.left, standing.order_of(recipe, manifest.left))
    except SettingsError as error:
        yield Step("train", "refused", str(error))
        return
    yield from _from_training(folder, recipe, manifest.left, onward)


def _from_training(folder: Path, recipe: Recipe, manifest: Manifest, onward: tuple[Stage, ...]) -> Iterator[Step]:
    saved = standing.trained(folder, recipe, manifest)
    yield _step("train", saved, onward, folder)
    if saved.left is None:
        yield Step("evaluate", "runs", "its network is trained first")
        yield Step("report", "runs", "its rows are measured first")
        return
    rows = standing.measured(folder, standing.jobs(folder, recipe, saved.left))
    yield _step("evaluate", rows, onward, folder)
    if rows.left is None:
        yield Step("report", "runs", "its rows are measured first")
        return
    yield _step("report", standing.reported(folder, standing.page_of(folder, rows.left, saved.left)), onward, folder)


def _step(stage: Stage, found: Found[Any], onward: tuple[Stage, ...], where: Path) -> Step:
    if stage not in onward:
        found.needed(stage, where)
        return Step(stage, "left out", found.why)
    return Step(stage, "unchanged" if found.left is not None else "runs", found.why)


def _undecided(source: Source, recipe: Recipe, folder: Path) -> Iterator[Step]:
    """The stages after a preparation, of which nobody knows yet what it will make."""
    if not is_trained(folder):
        yield Step("train", "runs", "starts at 0 images seen: there is no checkpoint yet")
        yield Step("evaluate", "runs", "its network is trained first")
        yield Step("report", "runs", "its rows are measured first")
    elif otherwise := standing.made_otherwise(source, recipe.data, folder):
        yield Step("train", "refused", f"RUN was trained on other data ({otherwise}); choose another RUN folder")
    else:
        was = facts_of(folder)["digest"]
        why = f"RUN was trained on data {was}: it goes on if the same are prepared, and is refused if others are"
        yield Step("train", "depends", why)
        yield Step("evaluate", "depends", "on the training")
        yield Step("report", "depends", "on the rows")

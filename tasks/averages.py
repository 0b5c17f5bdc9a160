"""Averages of many lengths of one training: each made, measured alike, and set side by side on one page."""

from collections.abc import Sequence
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from fm.cells import cells
from fm.checkpoints import Saved, newest
from fm.data import Manifest
from fm.facts import on_data
from fm.lineage import digest, page_digest
from fm.posthoc import FOLDER, Made, made, planned
from fm.recipe import Recipe, opened
from fm.report import kept
from fm.report.averages import Measured, best, table, write_page
from fm.results import Row
from tasks import watching
from tasks.evaluate import evaluate
from tasks.retrying import PATIENTLY
from tasks.tracking import Tracking


@task(name="average", cache_policy=NO_CACHE, **PATIENTLY)
def average(run: Path, last: Saved, lengths: Sequence[float]) -> list[Made]:
    """The networks of these lengths, each in a folder of its own in RUN.

    Raises: SettingsError for a length that cannot be made of what RUN kept.
    """
    found = []
    for length, how in planned(run, last, lengths).items():
        found.append(made(run, last, length, how))
        watching.say(f"average: length {length:g}, its profile {how.error:.1%} off, in {found[-1].folder}")
    return found


def swept(
    run: Path, recipe: Recipe, last: Saved, averages: Sequence[Made], data: str, manifest: Manifest, copy: Tracking
) -> tuple[list[Measured], list[Row]]:
    """The rows of the recipe's grid, first of the training's own average, then of the others; and all of them with
    those that failed."""
    grid = {str(cell) for cell in cells(recipe.evaluation)}
    own = [row for row in evaluate(run, recipe, last, copy, best=False) if row["weights"] == last.weights]
    every = [*own]
    found = [Measured(None, None, str(run), _whole(own))]
    for one in averages:
        its = Recipe.load(one.folder).model_copy(update={"evaluation": recipe.evaluation})
        with opened(one.folder, its, note=False) as folder, copy.member(folder, its) as member:
            on_data(folder, data, manifest)
            saved = newest(folder)
            assert saved is not None  # noqa: S101  it was made with one
            rows = [row for row in evaluate(folder, its, saved, member) if row["weights"] == saved.weights]
        every += rows
        found.append(Measured(one.length, one.error, str(one.folder), _whole(rows)))
    watching.say(f"{len(found)} averages at {', '.join(sorted(grid))}")
    return found, every


def _whole(rows: Sequence[Row]) -> tuple[Row, ...]:
    return tuple(row for row in rows if "failed" not in row)


@task(name="report", cache_policy=NO_CACHE, **PATIENTLY)
def shown(run: Path, last: Saved, found: Sequence[Measured], copy: Tracking) -> Path:
    """RUN/averages/<images seen>/report.html: the sweep and its table."""
    out = run / FOLDER / f"{last.images_seen:012d}"
    inputs = digest([[row["key"] for row in one.rows] for one in found], page_digest())
    with copy.stage("report"):
        if kept.stands(out, inputs):
            watching.say(f"report: unchanged (same rows; {out / 'report.html'} verified by hash)")
        else:
            one, _ = best(found)
            commands = [(f"fm sample {one.where} --n 64 --out best.png", "draw with the average that is nearest")]
            links = {"MLflow": copy.url, "Prefect flow run": watching.flow_run_url()}
            title = f"{run.name}: averages of {len(found) - 1} lengths"
            kept.keep(out, inputs, write_page(out, title, found, links, commands))
            watching.say(f"report: {out / 'report.html'}")
        copy.figures(out / "report.html", out / "report" / "sweep.png")
        watching.table("averages", table(found), f"{run.name}: distance by the length of the average")
    return out / "report.html"

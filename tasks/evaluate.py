"""The stage from a checkpoint to Rows: a Prefect task for each cell, in Ray's slots, each kept as a file when done."""

import math
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.futures import as_completed

from fm.checkpoints import Saved, mark_best, newest
from fm.data import Manifest
from fm.data.addresses import is_address
from fm.errors import CheckpointError, DataError
from fm.evaluation import FEWEST, cells, row_key
from fm.lineage import digest
from fm.metrics import load_features
from fm.recipe import Recipe, facts_of, untrained_weights
from fm.results import Row, bits_text, distance_text, distances, existing_row, read_row, worse, write_row
from fm.runs import here, of
from tasks import cluster, on_workers, watching
from tasks.on_workers import Job
from tasks.tracking import Tracking


def trained(run: Path) -> Saved:
    """The newest whole checkpoint of RUN.

    Raises: CheckpointError if there is none.
    """
    saved = newest(run)
    if saved is None:
        raise CheckpointError("no whole checkpoint", str(run), "train first, with `fm train DATA RUN`")
    return saved


def judgeable(manifest: Manifest) -> Manifest:
    """The manifest, if a network can be trained on it and judged: said before the training, not after it.

    Raises: DataError if there are no training images, or too few are held out.
    """
    if "train" not in manifest.splits:
        raise DataError("no training images are left", manifest.source, "see rejected.jsonl beside its shards")
    heldout = manifest.splits["test"].images if "test" in manifest.splits else 0
    if heldout < FEWEST:
        share = math.ceil(150 * FEWEST / manifest.images) / 100  # a hash decides for each image: aim higher
        mend = f"set data.holdout={share}" if share <= 0.5 else f"take a source of {4 * FEWEST} images or more"
        if not heldout:
            mend = "its pictures name their split: give test pictures too, or add them (`fm prepare --add`)"
        what = (
            f"{heldout} of its {manifest.images} images are held out, too few to judge a network by: {FEWEST} are due"
        )
        raise DataError(what, manifest.source, mend)
    return manifest


@task(name="evaluate", cache_policy=NO_CACHE)
def evaluate(run: Path, recipe: Recipe, saved: Saved, tracking: Tracking) -> list[Row]:
    """The rows of the recipe's grid and of the untrained network; those that stand in RUN are not measured again."""
    with tracking.stage("evaluate"):
        jobs = _jobs(run, recipe, saved)
        missing = [job for job in jobs if read_row(run, job.key) is None]
        if missing:
            _measure(missing, recipe)
        else:
            why = (
                f"same weights {saved.weights[:16]}, data, settings and code; {len(jobs)} rows in {run / 'evaluations'}"
            )
            watching.say(f"evaluate: unchanged ({why})")
        rows = [existing_row(run, job.key) for job in jobs]
        tracking.rows(rows)
        keep_if_best(run, recipe, saved, rows)
        return rows


def keep_if_best(run: Path, recipe: Recipe, saved: Saved, rows: list[Row]) -> None:
    """Keeps the checkpoint for `fm.load(RUN, weights="best")` if none came nearer by the first distance."""
    name = distances(rows)[0]
    nearest = min((row for row in rows if row["weights"] == saved.weights), key=lambda row: worse(row, name))
    if mark_best(run, saved, worse(nearest, name), f"{name} {digest(recipe.evaluation)}"):
        watching.say(f"evaluate: the best checkpoint so far, {name} {nearest[name]:.3g}: kept")


def _jobs(run: Path, recipe: Recipe, saved: Saved) -> list[Job]:
    """The grid on the trained weights, and one cell on the untrained ones, with the keys of their rows."""
    settings, data = recipe.evaluation, facts_of(run)["digest"]
    if not data:
        what = "was imported, and on what data it is to be measured is not said"
        raise DataError(what, str(run), "name them: `fm evaluate RUN DATA`")
    features = load_features(settings.features).weights
    grid = cells(settings)
    # The cheapest cell: a network before its first step answers zero, which every solver integrates exactly.
    baseline = min(grid, key=lambda cell: cell.nfe or 1000)
    pairs = [(cell, saved.weights) for cell in grid] + [(baseline, untrained_weights(recipe))]
    keys = [row_key(weights, cell, features, data, recipe.plugins) for cell, weights in pairs]
    return [Job(key, of(run), settings, cell, weights) for key, (cell, weights) in zip(keys, pairs, strict=True)]


def _measure(jobs: list[Job], recipe: Recipe) -> None:
    """All jobs in Ray's slots, the longest first, so that no slot waits for a late long one."""
    cells = "1 cell" if len(jobs) == 1 else f"{len(jobs)} cells"
    watching.say(f"evaluate: {cells}, and features of held-out and training images, their floor")
    progress = watching.Progress("evaluate", f"evaluate {recipe.name}", every_s=0.0)
    longest_first = sorted(jobs, key=lambda job: -(job.cell.nfe or 1000))
    waiting = [measure.with_options(task_run_name=job.name).submit(job) for job in longest_first]
    for done, future in enumerate(as_completed(waiting), start=1):
        row = future.result()
        progress.update(done / len(jobs), f"{done} of {len(jobs)} cells, {_line(row)}")


@task(name="cell", cache_policy=NO_CACHE)
def measure(job: Job) -> Row:
    """One cell in one of Ray's slots; its row is in RUN when this returns."""
    (outcome,) = cluster.ray_map(on_workers.row, [job])
    if outcome.error:
        raise outcome.error
    if is_address(job.run):  # which the worker's machine has a copy of its own of
        write_row(here(job.run), outcome.value)
    return outcome.value


def _line(row: Row) -> str:
    measured = [f"{name} {distance_text(row, name)}" for name in distances([row])]
    bits = f"bits/dim {bits_text(row)}" if bits_text(row) else ""
    return ", ".join([f"{row['method']} {row['solver']} NFE {row['nfe']}", *measured, *([bits] if bits else [])])

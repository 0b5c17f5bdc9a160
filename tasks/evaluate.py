"""The stage from a checkpoint to Rows: a Prefect task for each cell, its parts in Ray's slots, each kept when done."""

import os
import shutil
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.futures import as_completed
from torch import Tensor

from fm.cells import cell_of
from fm.checkpoints import Saved, newest
from fm.data import ShardedImages
from fm.errors import CheckpointError, DataError, NumericalError, SettingsError, Unfinished, UserError, several
from fm.facts import facts_of
from fm.keeping import mark_best
from fm.lineage import digest
from fm.metrics import FEATURES, check_features
from fm.metrics.weights import VARIABLE
from fm.optimised import CALLS, NOISES, OPTIMISED, grids_file
from fm.publishing import note_used
from fm.recipe import Recipe
from fm.reference import HELDOUT, TRAINING, describe_real, kept_in
from fm.results import Row, bits_text, distance_text, distances, existing_row, label, worse, write_row
from fm.runs import of
from tasks import cluster, measuring, standing, watching
from tasks.measuring import Job, Real, Share, Solutions
from tasks.place import Place
from tasks.retrying import PATIENTLY
from tasks.standing import along_training
from tasks.tracking import Tracking


def trained(run: Path) -> Saved:
    """The newest whole checkpoint of RUN.

    Raises: CheckpointError if there is none.
    """
    saved = newest(run)
    if saved is None:
        raise CheckpointError("no whole checkpoint", str(run), "train first, with `fm train DATA RUN`")
    return saved


def ready(features: str, place: Place) -> None:
    """Looks for the feature network's weights where the place says: before a training, not after it.

    Raises: UserError if they are missing on this machine, or are others.
    """
    if place.features:
        os.environ[VARIABLE] = place.features
    check_features(features, "evaluation.features")


@task(name="evaluate", cache_policy=NO_CACHE, **PATIENTLY)
def evaluate(run: Path, recipe: Recipe, saved: Saved, tracking: Tracking, best: bool = True) -> list[Row]:
    """The rows of the recipe's grid, of the untrained network, and of the kept checkpoints along the training; those
    that stand in RUN are not measured again.

    A cell that fails is tried once more; then its row says why, and the others go on. Unless `best` is false, the
    checkpoint is kept if it is the nearest so far by RUN's own measure.
    """
    with tracking.stage("evaluate"):
        jobs = standing.jobs(run, recipe, saved)
        if recipe.evaluation.guide:
            note_guided(recipe.evaluation.guide, of(run), jobs)
        found = standing.measured(run, jobs)
        watching.found("evaluate", found)
        if found.left is None:
            _measure([job for job in jobs if not standing.stands(run, job.key)], recipe)
        rows = found.left or [existing_row(run, job.key) for job in jobs]
        measured = [row for row in rows if "failed" not in row]
        if not any(row["weights"] == saved.weights for row in measured):
            raise Unfinished(f"every cell failed, the first one so: {rows[0]['failed']}", str(run))
        tracking.rows([row for row in measured if not along_training(row, saved)])
        tracking.along([row for row in measured if along_training(row, saved)])
        if best:
            keep_if_best(run, recipe, saved, measured)
        return rows


def note_guided(guide: str, run: str, jobs: Iterable[Job]) -> None:
    """Notes in the guide's RUN, if it is a folder, which of its weights RUN's rows cite: their checkpoint stays."""
    for weights in {job.cell.guide for job in jobs if job.cell.guide}:
        note_used(guide, weights, f"guides {run}")


def all_measured(run: str, rows: list[Row]) -> None:
    """Raises: Unfinished that says which cells failed, and why the first one did."""
    failed = [row for row in rows if "failed" in row]
    if failed:
        which = ", ".join(f"{row['method']} {cell_of(row)}" for row in failed[:5])
        what = f"{several(len(failed), 'cell')} of {len(rows)} failed ({which}): {failed[0]['failed']}"
        raise Unfinished(what, run, "start again, which measures these alone")


def keep_if_best(run: Path, recipe: Recipe, saved: Saved, rows: list[Row]) -> None:
    """Keeps the checkpoint for `fm.load(RUN, weights="best")` if none came nearer by the first distance."""
    own = [row for row in rows if row["weights"] == saved.weights]
    if not own:
        return
    name = distances(rows)[0]
    nearest = min(own, key=lambda row: worse(row, name))
    if mark_best(run, saved.path.name, worse(nearest, name), f"{name} {digest(recipe.evaluation)}"):
        watching.say(f"evaluate: the best checkpoint so far, {name} {nearest[name]:.3g}: kept")


TIMED = ("seconds", "nll_seconds")  # of a row, what no second measurement can repeat
MADE_BY = ("recipe", "code", "torch", "numpy", "python", "threads", "device")


def same_again(rows: Sequence[Row], run: Path, recipe: Recipe) -> dict[str, Any]:
    """Measures rows once more, without keeping them -> how many of their values are the same to the last bit.

    Raises: Unfinished that names what differs, and what was another then; DataError for a row that does not say enough.
    """
    jobs = [_once_more(row, run, recipe) for row in rows]
    together = defaultdict[Any, list[Job]](list)  # those that share pictures to be compared with, and solutions
    for job in jobs:
        together[job.settings.model_dump_json(), job.cell.error_images].append(job)
    shutil.rmtree(jobs[0].place, ignore_errors=True)  # what an earlier one left may be of other code
    again = dict[str, Row]()
    for some in together.values():
        measured = _rows(some, f"{recipe.name}, {several(len(some), 'row')} again")
        again |= {job.key: row for job, row in zip(some, measured, strict=True)}
    shutil.rmtree(jobs[0].place, ignore_errors=True)
    differing = [error for row in rows if (error := _difference(row, again[row["key"]]))]
    if differing:
        first, many = differing[0], f"{len(differing)} of {len(rows)} rows differ, the first one so: "
        raise Unfinished(f"{many if len(rows) > 1 else ''}{first.what}", first.where, first.mend)
    count = sum(len(_values(row, again[row["key"]])) for row in rows)
    return {"run": of(run), "rows": len(rows), "same": f"{count:,} values to the last bit"}


def _once_more(row: Row, run: Path, recipe: Recipe) -> Job:
    if "cell" not in row or "failed" in row:
        raise DataError("does not say what it was measured by", row["key"], "evaluate again, and rerun the new row")
    cell = cell_of(row)
    settings = recipe.evaluation.model_copy(
        update={"features": row["features"], "guide": row.get("guide_run")}
        | {name: getattr(cell, name) for name in ("samples", "reference_images", "reference_split")}
    )
    return Job(row["key"], of(run), run, settings, cell, row["weights"], keep=False)


def _values(row: Row, again: Row) -> list[str]:
    """The names of what must be the same; a key is of code and library, too."""
    return sorted({*row, *again} - {"key", *TIMED, *MADE_BY})


def _difference(row: Row, again: Row) -> Unfinished | None:
    values = _values(row, again)
    other = [name for name in values if row.get(name) != again.get(name)]
    if not other:
        return None
    made = [f"{name} {row.get(name)} then, {again[name]} now" for name in MADE_BY if row.get(name) != again[name]]
    first = ", ".join(f"{name} {row.get(name)} then, {again.get(name)} now" for name in other[:3])
    what = f"{len(other)} of {len(values)} values differ ({first})"
    return Unfinished(what, row["key"], "; ".join(made) or "the same code, library, threads and device")


def _measure(jobs: list[Job], recipe: Recipe) -> None:
    """The jobs' rows, in RUN when this returns."""
    cells = "1 cell" if len(jobs) == 1 else f"{len(jobs)} cells"
    watching.say(f"evaluate: {cells}, and features of held-out and training images, their floor")
    _rows(jobs, recipe.name)


def _rows(jobs: list[Job], name: str) -> list[Row]:
    """All jobs in Ray's slots, the longest first, so that no slot waits for a late long one; their rows, in order."""
    gpus = cluster.gpus_each()
    jobs = [replace(job, device="cuda" if gpus else "cpu", reference=kept_in()) for job in jobs]
    _describe_real(jobs[0], gpus)
    erring = {(job.weights, job.cell.seed): job for job in jobs if job.cell.error_images}
    unsolved = {of: _solve(job, gpus) for of, job in erring.items()}
    chosen = {job.weights: job for job in jobs if job.cell.grid == OPTIMISED}
    grids = {weights: _grids(job, gpus) for weights, job in chosen.items()}
    whys = [unsolved.get((job.weights, job.cell.seed), "") for job in jobs]
    jobs = [replace(job, grids=grids.get(job.weights), unsolved=why) for job, why in zip(jobs, whys, strict=True)]
    progress = Shares(sum(len(job.missing()) for job in jobs), name)
    longest_first = sorted(jobs, key=lambda job: -(job.cell.nfe or 1000))
    waiting = [measure.with_options(task_run_name=job.name).submit(job, gpus, progress) for job in longest_first]
    jobs_of, rows = {id(future): job for future, job in zip(waiting, longest_first, strict=True)}, dict[str, Row]()
    for future in as_completed(waiting):
        row, job = future.result(raise_on_failure=False), jobs_of[id(future)]
        rows[job.key] = _failed(job, row) if isinstance(row, Exception) else row
        progress.say(_line(rows[job.key]))
    return [rows[job.key] for job in jobs]


def _failed(job: Job, error: Exception) -> Row:
    """The row that says why, kept in RUN.

    Raises: the error, where it is no cell's own but the RUN's or the cluster's.
    """
    if isinstance(error, CheckpointError | SettingsError) or not job.keep:
        raise error
    why = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    row = measuring.failed(job, why)
    write_row(job.folder, row)
    return row


def _describe_real(job: Job, gpus: float) -> None:
    """Features of held-out and training images, in Ray's slots as far as they are not kept on this machine."""
    data, settings = facts_of(job.folder)["data"], job.settings
    features = FEATURES[settings.features].known(job.device)

    def describe(split: str, parts: Sequence[range]) -> Iterator[Tensor]:
        progress = watching.Progress("reference", f"features of {split} images")
        items = (Real(job.run, settings.features, job.device, split, part) for part in parts)
        for done, outcome in enumerate(mapped(measuring.described, items, gpus), start=1):
            yield outcome.needed()
            progress.update(done / len(parts), f"{min(parts[done - 1].stop, parts[-1].stop):,} of {parts[-1].stop:,}")

    describe_real(ShardedImages(data, TRAINING), ShardedImages(data, HELDOUT), features, settings, None, describe)


def _solve(job: Job, gpus: float) -> str:
    """The solutions that numerical errors are measured against, unless they are there; why there are none of a network
    too stiff for a solver, whose rows lack them then."""
    file, count, batch = measuring.solutions_file(job), job.cell.error_images, job.cell.batch
    if not file.exists():
        watching.say(f"evaluate: {count:,} converged solutions, which numerical errors are measured against")
        items = [Solutions(job, range(start, min(start + batch, count))) for start in range(0, count, batch)]
        try:
            found = [outcome.needed() for outcome in mapped(measuring.converged, items, gpus)]
        except NumericalError as error:
            watching.say(f"evaluate: no converged solutions, so rows lack numerical errors and ways: {error}")
            return str(error)
        measuring.write(file, {name: torch.cat([part[name] for part in found]) for name in found[0]})
    return ""


def _grids(job: Job, gpus: float) -> measuring.Found:
    """The grids of a network, chosen anew: those in RUN may be of other code, and are for who draws."""
    many = NOISES * CALLS // 256
    watching.say(f"evaluate: optimised grids are chosen, which takes as long as drawing {many} samples at NFE 256")
    (outcome,) = mapped(measuring.best_grids, [job], gpus)
    found = outcome.needed()
    if job.keep:
        measuring.write(grids_file(job.folder, job.weights), found)
    return found


def mapped(
    fn: Callable[[Any], Any], items: Iterable[Any], gpus: float = 0, here: bool = False
) -> Iterator[cluster.Outcome]:
    """`ray_map` whose workers' lines and losses stand in the run's log."""
    return cluster.ray_map(fn, items, gpus=gpus, lost=_lost, tell=watching.forward, here=here)


def _lost(item: Any, why: str) -> None:
    watching.say(f"evaluate: {item.name} once more, on another machine if there is one: {why}")


class Shares:
    """Progress of all cells together, from the threads that wait for them."""

    def __init__(self, count: int, name: str) -> None:
        self._progress = watching.Progress("evaluate", f"evaluate {name}")
        self._count, self._done, self._lock = count, 0, threading.Lock()

    def done(self, share: Share) -> None:
        with self._lock:
            self._done += 1
            self._progress.update(self._done / self._count, f"{self._done} of {self._count} parts, {share.name}")

    def say(self, line: str) -> None:
        """A cell is measured."""
        with self._lock:
            self._progress.update(self._done / self._count, f"{self._done} of {self._count} parts, {line}", now=True)


def _mended_by_trying(task: Any, run: Any, state: Any) -> bool:
    return not isinstance(state.result(raise_on_failure=False), UserError)


@task(
    name="cell",
    cache_policy=NO_CACHE,
    retries=1,
    retry_delay_seconds=1,
    retry_jitter_factor=0.5,
    retry_condition_fn=_mended_by_trying,
)
def measure(job: Job, gpus: float, progress: Shares) -> Row:
    """One cell, its parts in Ray's slots as far as they are not there; its row is in RUN when this returns."""
    for outcome in mapped(measuring.found, job.missing(), gpus):
        outcome.item.keep(outcome.needed())
        progress.done(outcome.item)
    (outcome,) = mapped(measuring.row, [job], here=True)
    return outcome.needed()


def _line(row: Row) -> str:
    if "failed" in row:
        return f"{row['method']} {label(row)} failed: {row['failed']}"
    measured = [f"{name} {distance_text(row, name)}" for name in distances([row])]
    bits = f"bits/dim {bits_text(row)}" if bits_text(row) else ""
    return ", ".join([f"{row['method']} {row['solver']} NFE {row['nfe']}", *measured, *([bits] if bits else [])])

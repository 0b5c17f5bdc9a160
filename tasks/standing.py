"""What stands in DATA and RUN already: of each stage whether it has something to do, and why. Writes nothing.

The stages and `fm pipeline --dry-run` decide by this one rule. It imports no Prefect, which would take its seconds.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, get_args

import torch

from fm.cells import Cell, Evaluation, along, cell_of, cells, in_grid
from fm.checkpoints import Saved, Store, kept, newest
from fm.data import Manifest, Preparation, Source, inputs_digest, load_manifest, open_source, verify
from fm.errors import CheckpointError, DataError, SettingsError, UserError, several
from fm.evaluation import row_key
from fm.facts import facts_of
from fm.files import read_json
from fm.lineage import code_digest, differences, digest
from fm.metrics import check_features, identity_of
from fm.recipe import Recipe, check_guide, untrained_weights
from fm.records import read
from fm.reference import FEWEST, HELDOUT
from fm.report import kept as kept_page
from fm.results import Row, existing_row, read_row, read_rows, row_file
from fm.runs import of, pulled
from tasks.measuring import Job

Stage = Literal["prepare", "train", "evaluate", "report"]
STAGES: tuple[Stage, ...] = get_args(Stage)
T = TypeVar("T")


@dataclass(frozen=True)
class Found(Generic[T]):
    """What a stage has left, whole and current, and how that is known; or None, and what there is to do and why."""

    left: T | None
    why: str

    def needed(self, stage: Stage, where: Path | str) -> T:
        """What it has left.

        Raises: UserError if a start after this stage finds it missing.
        """
        if self.left is None:
            raise UserError(
                f"{stage} has not left here what comes after it needs ({self.why})", str(where), again(stage)
            )
        return self.left


def again(stage: Stage) -> str:
    return f"start at {stage} (`--from {stage}`)" if stage != STAGES[0] else "start at the beginning, without `--from`"


def onward(start_at: Stage) -> tuple[Stage, ...]:
    """The stages that run when the first one is this."""
    return STAGES[STAGES.index(start_at) :]


def folder_for(source: str, settings: Preparation, beside: Path) -> Path:
    """The DATA folder of a source and its settings, shared by all runs beside it: `data/photos-32-1f3a5b7c9d2e4f60`."""
    last = Path(source.split("?")[0].rstrip(":/")).name[:60]
    name = "".join(c if c.isalnum() else "-" for c in last).strip("-")
    return beside / "data" / f"{name}-{settings.size}-{inputs_digest(open_source(source), settings)}"


def prepared(source: Source, data: Path, settings: Preparation, run: Path | None = None) -> Found[Manifest]:
    """What DATA holds, if it is just that; only then is every file of the source looked at.

    RUN tells what was taken before, where that is in another folder.
    """
    if not (data / "manifest.json").exists():
        return Found(None, made_otherwise(source, settings, run) or f"nothing is finished in {data}")
    if load_manifest(data).inputs != inputs_digest(source, settings):
        return Found(None, ", ".join(_inputs_changed(load_manifest(data), source, settings)))
    try:
        found = verify(data)
    except DataError as error:
        return Found(None, error.what)
    return Found(found, f"same source and settings; {found.images:,} images verified by hash in {data}")


def made_otherwise(source: Source, settings: Preparation, run: Path | None) -> str:
    """In what the data that RUN is on were made otherwise; nothing if in nothing, or nobody knows."""
    before = facts_of(run)["data"] if run and (run / "data.json").exists() else ""
    if not before or not (Path(before) / "manifest.json").exists():
        return ""
    return ", ".join(_inputs_changed(load_manifest(before), source, settings))


def _inputs_changed(before: Manifest, source: Source, settings: Preparation) -> list[str]:
    there, made = before.origins[0], source.digest()
    changed = differences(before.settings.identity(), settings.identity(), "data")
    if there.source != source.uri:
        changed.append(f"source {there.source}, now {source.uri}")
    if there.digest != made:
        changed.append(f"digest of the source {there.digest}, now {made}")
    return changed


def judgeable(manifest: Manifest, recipe: Recipe | None = None) -> Manifest:
    """The manifest, if a network can be trained on it and judged (by this recipe): said before the training.

    Raises: DataError if there are no training images, or too few are held out; SettingsError if super-resolution is
    asked for more samples than there are held-out images, or guidance by labels where there are none.
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
    if recipe:
        check_judged(recipe, heldout, manifest.classes)
    return manifest


def trained(run: Path, recipe: Recipe, manifest: Manifest) -> Found[Saved]:
    """The newest whole checkpoint of RUN, if its recipe is fulfilled.

    Raises: CheckpointError if it is of another recipe, data set or order.
    """
    saved, settings = newest(run), recipe.training
    if saved is None:
        return Found(None, "starts at 0 images seen: there is no checkpoint yet")
    if not settings.finished(saved.images_seen, saved.seconds):
        due = f"{settings.total_images:,}" + (f" or {settings.max_seconds:g} s" if settings.max_seconds else "")
        return Found(None, f"continues at {saved.images_seen:,} images seen of {due}")
    Store(run, recipe.training_values(), manifest.digest, order=order_of(recipe, manifest)).check_identity(saved)
    why = f"{saved.images_seen:,} images seen, weights {saved.weights[:16]} verified by hash"
    return Found(saved, f"same recipe and data; {why}")


def order_of(recipe: Recipe, manifest: Manifest) -> str:
    """The fingerprint of the order in which the data are seen."""
    return recipe.training.order([shard.images for shard in manifest.splits["train"].shards]).fingerprint()


def jobs(run: Path, recipe: Recipe, saved: Saved) -> list[Job]:
    """The grid on the trained weights, one cell on the untrained ones, and one on each kept checkpoint before the last
    where the recipe asks for it, with the keys of their rows."""
    settings, data = recipe.evaluation, facts_of(run)["digest"]
    if not data:
        what = "was imported, and on what data it is to be measured is not said"
        raise DataError(what, str(run), "name them: `fm evaluate RUN DATA`")
    features = identity_of(settings.features)
    if settings.guide:
        check_guide(run, settings.guide)
    grid = [_led(cell, settings) for cell in cells(settings)]
    check_judged(recipe, facts_of(run).get("images", {}).get(HELDOUT, 0), facts_of(run)["classes"])
    # The cheapest cell: a network before its first step answers zero, which every solver integrates exactly.
    baseline = min(grid, key=lambda cell: cell.nfe or 1000).model_copy(update=PLAIN | {"error_images": 0})
    pairs = [(cell, saved.weights) for cell in grid] + [(baseline, untrained_weights(recipe))]
    if point := along(settings):
        point = _led(point, settings)
        pairs += [(point, one.weights) for one in kept(run) if one.images_seen < saved.images_seen]
        if not in_grid(point, grid):
            pairs.append((point, saved.weights))
    keys = [row_key(weights, cell, features, data, recipe.plugins) for cell, weights in pairs]
    return [Job(key, of(run), run, settings, cell, weights) for key, (cell, weights) in zip(keys, pairs, strict=True)]


PLAIN = {name: Cell.model_fields[name].default for name in ("grid", "guidance", "interval", "guide")}


def _led(cell: Cell, settings: Evaluation) -> Cell:
    """A guided cell with the weights that it leads away from, if those are another network's.

    Raises: CheckpointError if that RUN has none.
    """
    if not settings.guide or not cell.guidance:
        return cell
    saved = newest(pulled(settings.guide))
    if saved is None:
        raise CheckpointError("no whole checkpoint to guide by", settings.guide, "name a RUN that was trained")
    return cell.model_copy(update={"guide": saved.weights})


def check_judged(recipe: Recipe, heldout: int, classes: Sequence[str]) -> None:
    """Raises: SettingsError for more samples of super-resolution than held-out images, for each belongs to one; and for
    guidance away from labels that the data do not have."""
    grid = [*cells(recipe.evaluation), *filter(None, [along(recipe.evaluation)])]
    most = max(cell.samples for cell in grid)
    if recipe.super_resolution and most > heldout:
        what = f"{most:,} samples are asked for, and there are {heldout:,} held-out images, one for each"
        raise SettingsError(what, "evaluation.samples", f"set it to {heldout:,} or less, or hold out more")
    if any(cell.guidance for cell in grid) and not recipe.evaluation.guide and not classes:
        what = "guidance leads away from the network without label, and the data have no classes"
        raise SettingsError(what, "evaluation.grid", "name a weaker network: evaluation.guide=RUN")


def stands(run: Path, key: str) -> bool:
    """Whether the row of that key has been measured, and did not fail."""
    row = read_row(run, key)
    return row is not None and "failed" not in row


def along_training(row: Row, saved: Saved) -> bool:
    """Whether a row is of a checkpoint on the way, and not of the network that came out."""
    return row["weights"] != saved.weights and row["method"] != "untrained"


def measured(run: Path, due: Sequence[Job]) -> Found[list[Row]]:
    """The rows of these jobs, if all of them stand."""
    missing = [job for job in due if not stands(run, job.key)]
    if not missing:
        why = f"same weights {due[0].weights[:16]}, data, settings and code; {len(due)} rows in {run / 'evaluations'}"
        return Found([existing_row(run, job.key) for job in due], why)
    before = read_rows(run)
    reasons = Counter(_unmeasured(job, before) for job in missing)
    told = "; ".join(reason for reason, _ in reasons.most_common(3))
    return Found(None, f"{len(missing)} of {several(len(due), 'cell')} to measure: {told}")


def _unmeasured(job: Job, rows: Sequence[Row]) -> str:
    """Why there is no row of a job: in what the row that is nearest to it differs."""
    own = next((row for row in rows if row["key"] == job.key), None)
    if own:
        return f"failed before ({own['failed']})"
    if row_file(job.folder, job.key).exists():
        return "a row was changed since it was measured"
    told = [row for row in rows if "cell" in row and row["weights"].startswith("untrained") == job.untrained]
    point = [row for row in told if _point(cell_of(row)) == _point(job.cell)]
    if not point:
        return f"{job.name} is not measured yet"
    return ", ".join(min((_changed(row, job) for row in point), key=len)[:4])


def _point(cell: Cell) -> tuple[Any, ...]:
    return cell.solver, cell.nfe, cell.tolerance, cell.control, cell.grid, cell.guidance, cell.interval, cell.seed


def _changed(row: Row, job: Job) -> list[str]:
    """`evaluation.samples 40, now 50`, `code ..., now ...`, for each thing in which a row is not the job's."""
    there, now = cell_of(row).model_dump(mode="json"), job.cell.model_dump(mode="json")
    own = {"weights": job.weights, "data": facts_of(job.folder)["digest"], "features": job.settings.features}
    if "failed" not in row:  # which does not say by what it was made
        own |= {"features_weights": check_features(own["features"]), "code": code_digest(), "torch": torch.__version__}
    return differences(there, now, "evaluation") + differences({name: row.get(name) for name in own}, own)


def page_of(run: Path, rows: Sequence[Row], saved: Saved) -> dict[str, str]:
    """What RUN/report.html is made from, as digests by name."""
    shown = [row["key"] for row in rows if not along_training(row, saved)]
    made_of = {"rows": digest(shown), "records": digest(read(run / "records"))}
    return made_of | {"weights": saved.weights, "code": code_digest()}


def reported(run: Path, made_of: dict[str, str]) -> Found[Path]:
    """RUN/report.html, if it was made from these and none of its files has changed."""
    page = run / "report.html"
    if kept_page.stands(run, digest(made_of)):
        return Found(page, f"same rows, records and weights; {page} verified by hash")
    record = run / kept_page.RECORD
    if not record.exists():
        return Found(None, "there is no page yet")
    before = read_json(record).get("made_of", {})
    return Found(None, ", ".join(differences(before, made_of)) or "a file of the page is missing or was changed")

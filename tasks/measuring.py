"""What runs inside Ray's workers for an evaluation: parts of cells, features of real pictures, rows. No Prefect either.

Parts may be measured on any machine; what they give lies with the driver, in RUN/.parts, until their row is there.
"""

import shutil
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from fm.cells import Cell, Evaluation
from fm.columns import Found
from fm.data import ShardedImages
from fm.enlarging import bicubic
from fm.errors import MachineError
from fm.evaluation import (
    AGAIN,
    PARTS,
    SAMPLES,
    TRAINING_BITS,
    Part,
    check,
    converge,
    failed_row,
    fidelity,
    labels_of,
    parts,
    row_of,
    sample,
    score,
    solutions_name,
)
from fm.facts import facts_of
from fm.files import atomic
from fm.flow import Flow
from fm.metrics import FEATURES, Features, identity_of, load_features
from fm.optimised import NOISES
from fm.recipe import load, untrained
from fm.reference import HELDOUT, TRAINING, Pairs, label_law, measure_reference, pairs, pictures
from fm.results import Row, write_row
from fm.runs import pulled


@dataclass(frozen=True)
class Job:
    """One row to measure: picklable, complete in itself."""

    key: str
    run: str  # as every machine finds it: folder, or address
    folder: Path  # RUN on the driver's machine
    settings: Evaluation
    cell: Cell
    weights: str  # SHA-256 of a checkpoint's EMA weights, or the name of the network before its first step
    device: str = "cpu"
    reference: Path | None = None  # where the driver keeps features of real pictures
    keep: bool = True  # the row, in RUN
    grids: dict[str, Tensor] | None = None  # of these weights, where the cell's grid is optimised
    unsolved: str = ""  # why there is nothing that numerical errors of its noise could be measured against

    @property
    def name(self) -> str:
        seed = f", seed {self.cell.seed}" if self.settings.seeds > 1 else ""
        return ("untrained, " if self.untrained else "") + str(self.cell) + seed

    @property
    def untrained(self) -> bool:
        return self.weights.startswith("untrained")

    def parts(self) -> list[Part]:
        return parts(self.cell, len(_images(self.run, HELDOUT)), len(_images(self.run, TRAINING)))

    def missing(self) -> "list[Share]":
        """The parts that are not kept yet."""
        return [share for part in self.parts() if not (share := Share(self, part)).kept()]

    @property
    def scratch(self) -> Path:
        """Where its parts lie until its row is there."""
        return self.place / self.key

    @property
    def place(self) -> Path:
        """Where the scratch of all rows lies; that of rows measured once more, which may be of other code, apart."""
        return self.folder / PARTS if self.keep else self.folder / PARTS / AGAIN

    def file(self, part: Part) -> Path:
        return self.scratch / f"{part.kind}-{part.start}.safetensors"


@dataclass(frozen=True)
class Share:
    """One part of a job."""

    job: Job
    part: Part

    @property
    def name(self) -> str:
        return f"{self.job.name}, {self.part}"

    def kept(self) -> bool:
        """Whether it was measured, and is as it was written."""
        return self.job.file(self.part).exists() and bool(_read(self.job.file(self.part)))

    def keep(self, found: Found) -> None:
        write(self.job.file(self.part), found)


@dataclass(frozen=True)
class Real:
    """Real pictures to be described: these places of a split's order."""

    run: str
    features: str
    device: str
    split: str
    places: range

    @property
    def name(self) -> str:
        return f"features of {self.split} images {self.places.start:,} to {self.places.stop:,}"


@dataclass(frozen=True)
class Answering:
    """What a network of super-resolution answers to the first so many held-out small pictures."""

    run: str
    weights: str
    device: str
    cell: Cell
    seed: int
    count: int

    @property
    def name(self) -> str:
        return f"answers of {Path(self.run).name}, seed {self.seed}"


@dataclass(frozen=True)
class Solutions:
    """Samples to be solved with next to no numerical error."""

    job: Job
    places: range

    @property
    def name(self) -> str:
        return f"converged solutions {self.places.start:,} to {self.places.stop:,}"


def found(share: Share) -> Found:
    """Measures one part of a cell."""
    job, part, settings = share.job, share.part, share.job.settings
    flow = _on_grids(_flow(job.run, job.weights, job.device), job)
    if part.kind == SAMPLES:
        labels = label_law(_images(job.run, HELDOUT), settings)
        given = _pairs(flow, job.run, HELDOUT, part.start, part.stop)
        guide = _flow(settings.guide or "", job.cell.guide, job.device) if job.cell.guide else None
        return sample(flow, job.cell, part, _features(settings.features, job.device), labels, given, guide)
    split = TRAINING if part.kind == TRAINING_BITS else HELDOUT
    given = _pairs(flow, job.run, split, part.start, part.stop)
    return score(flow, job.cell, part, *pictures(_images(job.run, split), part.start, part.stop), given)


def _on_grids(flow: Flow, job: Job) -> Flow:
    return replace(flow, grids=job.grids) if job.grids else flow


def best_grids(job: Job) -> Found:
    """Grids chosen for a job's weights, by solver: the same in cells of every seed."""
    flow, labels = _flow(job.run, job.weights, job.device), label_law(_images(job.run, HELDOUT), job.settings)
    given = _pairs(flow, job.run, HELDOUT, 0, NOISES)
    y = labels_of(flow, 0, torch.arange(NOISES), labels)
    return flow.best_grids(NOISES, y=y, low=given and given.low)


def _pairs(flow: Flow, run: str, split: str, start: int, stop: int) -> Pairs | None:
    """The images of these places with their small pictures, where the network is of super-resolution."""
    return pairs(_images(run, split), start, stop) if flow.low_size else None


def described(real: Real) -> Tensor:
    """Features (n, d) of real pictures."""
    images, _ = pictures(_images(real.run, real.split), real.places.start, real.places.stop)
    return _features(real.features, real.device)(images)


def enlarged(real: Real) -> Found:
    """Small pictures of these images enlarged by bicubic interpolation: their features, and how near they are."""
    given = pairs(_images(real.run, real.split), real.places.start, real.places.stop)
    images = bicubic(given.low, given.images.shape[-1])
    return {"features": _features(real.features, real.device)(images), **fidelity(images, given)}


def answered(asked: Answering) -> Tensor:
    """Images uint8 (n, c, h, w), one for each small picture."""
    flow = _flow(asked.run, asked.weights, asked.device)
    low = pairs(_images(asked.run, HELDOUT), 0, asked.count).low
    return flow.sample(len(low), asked.seed, low=low, batch=asked.cell.batch, **asked.cell.options()).cpu()


def converged(of: Solutions) -> Found:
    """The states (n, *shape) of these samples, and how they came there."""
    job = of.job
    labels = label_law(_images(job.run, HELDOUT), job.settings)
    flow = _flow(job.run, job.weights, job.device)
    start, stop = of.places.start, of.places.stop
    return converge(flow, job.cell.seed, start, stop, labels, _pairs(flow, job.run, HELDOUT, start, stop))


def row(job: Job) -> Row:
    """Makes the row of a job whose parts lie on this machine, keeps it in RUN, and drops the parts.

    Raises: NumericalError for samples that are not finite, unless the cell drops them.
    """
    # Of a RUN at an address the folder holds the newest weights alone.
    flow = _on_grids(_flow(job.run, job.weights, "cpu"), job)
    features = FEATURES[job.settings.features].known(job.device)
    # The images for bits/dim were with the parts.
    settings = job.settings.model_copy(update={"nll_images": 0, "nll_training_images": 0})
    sets = _images(job.run, TRAINING), _images(job.run, HELDOUT)
    reference = measure_reference(*sets, features, settings, job.reference)
    check(flow, features, reference)
    whole = [(part, _read(job.file(part))) for part in job.parts()]
    unsolved = job.unsolved if job.cell.error_images else ""
    exact = _read(solutions_file(job)) if job.cell.error_images and not unsolved else None
    if exact is not None and not exact:
        solutions_file(job).unlink(missing_ok=True)
        raise MachineError("the converged solutions cannot be read any more", str(job.folder), "start again")
    made = row_of(flow, job.cell, whole, features, reference, exact)
    if unsolved:
        made["solution_failed"] = unsolved
    if job.cell.guide:
        made["guide_run"] = job.settings.guide
    if job.keep:
        write_row(job.folder, made)
    shutil.rmtree(job.scratch, ignore_errors=True)
    return made


def failed(job: Job, why: str) -> Row:
    """The row that stands for a cell which could not be measured."""
    features = (job.settings.features, identity_of(job.settings.features))
    return failed_row(_flow(job.run, job.weights, "cpu"), job.cell, features, facts_of(job.folder)["digest"], why)


def solutions_file(job: Job) -> Path:
    """Where the converged solutions from a job's noise are kept."""
    return job.place / solutions_name(job.weights, job.cell, facts_of(job.folder)["digest"])


def write(file: Path, found: Found) -> None:
    from safetensors.torch import save

    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic(file) as out:
        out.write(save({name: value.contiguous() for name, value in found.items()}))


def _read(file: Path) -> Found:
    """What a part gave; nothing if the file is not there or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (OSError, SafetensorError):
        return {}


# A worker measures many parts: what they share is loaded once.
@lru_cache(maxsize=3)  # one, its guide, and one before its first step
def _flow(run: str, weights: str, device: str) -> Flow:
    if weights.startswith("untrained"):
        return untrained(run, _there(device))
    return load(run, _there(device), weights)


@lru_cache(maxsize=1)
def _features(name: str, device: str) -> Features:
    return load_features(name, _there(device))


def _there(device: str) -> str:
    """The device asked for; a slot's GPU may be one in name alone."""
    return device if torch.cuda.is_available() else "cpu"


@lru_cache(maxsize=4)
def _images(run: str, split: str) -> ShardedImages:
    return ShardedImages(facts_of(pulled(run))["data"], split)

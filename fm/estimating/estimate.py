"""From what was measured to what a whole run costs: time and core-hours of each part, memory, disk; as a table."""

import heapq
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fm.cells import Cell, Evaluation, cells, tightest
from fm.columns import CONVERGED_TOLERANCE
from fm.data import Manifest, Preparation, Source
from fm.data.preparation import sample_bytes
from fm.errors import DataError, several
from fm.estimating.counting import Counted
from fm.estimating.measuring import Data, Measured, measure, silent
from fm.estimating.units import in_bytes, in_time, short
from fm.flow import Flow
from fm.footprint import at_once, check_fits, footprint, free_bytes, workers_here
from fm.progress import GRID
from fm.recipe import Recipe
from fm.tableaux import tableau

# Evaluations that dopri5 is assumed to take at a tolerance of 1e-5: means of the data sets of the paper's Table 1.
EXPECTED_NFE = {
    "DDPM": 267,
    "Score Matching": 287,
    "ScoreFlow": 408,
    "FM w/ Diffusion": 188,
    "FM w/ OT": 134,
}
BUSY = 1.3  # times its processor's seconds: what a step takes longer than that is not its own
LEAST_NFE = 14  # two steps and the choice of the first
UNTRAINED_NFE = 44  # of dopri5 at any tolerance where the velocity is zero: steps grow tenfold from a tiny first one


@dataclass(frozen=True)
class Part:
    """A part of the work: its time on the clock, and for how long it takes cores or GPUs in all, at work or not."""

    name: str
    seconds: float
    taken_s: float
    unit: str  # "core-hours" or "GPU-hours"
    words: str  # what it is the product of

    @property
    def hours(self) -> float:
        return self.taken_s / 3600


@dataclass(frozen=True)
class Estimate:
    """What a run will cost: parts in the order of the work, memory of a worker, bytes on disk by folder.

    `totals` are training and evaluation together, by what they hold for: the machine as it is, or an idle one.
    """

    title: str
    parts: tuple[Part, ...]
    totals: Mapping[str, tuple[Part, ...]]
    peak_bytes: int
    free_bytes: int
    memory: str
    disk: dict[str, tuple[int, str]]
    values: dict[str, Any]

    def text(self) -> str:
        """An aligned table."""
        lines = [("", "time", "taken", "")]
        lines += [(p.name, in_time(p.seconds), taken([p]), p.words) for p in self.parts]
        for name, parts in self.totals.items():
            words = " + ".join(f"{part.name} {in_time(part.seconds)}" for part in parts)
            lines.append((name, in_time(sum(part.seconds for part in parts)), taken(parts), words))
        lines.append(("memory", in_bytes(self.peak_bytes), f"{in_bytes(self.free_bytes)} free", self.memory))
        lines += [(f"disk, {name}", in_bytes(size), "", words) for name, (size, words) in self.disk.items()]
        widths = [max(len(line[column]) for line in lines) for column in range(3)]
        table = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in lines]
        return "\n".join([self.title, *table])


def taken(parts: Iterable[Part]) -> str:
    """Core-hours and GPU-hours, each summed: `12 GPU-hours + 1.4 core-hours`."""
    sums: Counter[str] = Counter()
    for part in parts:
        sums[part.unit] += part.hours  # type: ignore[assignment]
    return " + ".join(f"{short(hours, 2)} {unit}" for unit, hours in sums.items())


def estimate(
    recipe: Recipe,
    data: Data,
    known: Counted,
    disk: dict[str, tuple[int, str]],
    say: Callable[[str], None] = silent,
) -> Estimate:
    """The whole training and evaluation of the recipe, from its start; `disk` are bytes of folders besides RUN.

    `say` is told of each part that is measured, as it begins.

    Raises: SettingsError before anything is measured if the training does not suit this machine, with what would; as
    the work itself does.
    """
    workers, settings = known.workers, recipe.training
    device = "cuda" if torch.cuda.is_available() else "cpu"
    check_fits(known.parameters, known.held, settings, workers, device, free_bytes(device, workers_here(workers)))
    held = footprint(known.parameters, settings, workers, known.held.of(settings))
    found = measure(recipe, data, workers, held, say)
    method = _method(recipe, data.shape)
    training, images = _training(recipe, found, workers, found.step_s, method)
    evaluation = _evaluation(recipe, found, data, method)
    totals = {"total": (training, evaluation[0])}
    if _disturbed(recipe, found):
        idle, _ = _training(recipe, found, workers, found.step_cpu_s / settings.threads, method)
        totals["on an idle machine"] = (idle, evaluation[0])
    free = free_bytes(device, workers_here(workers))
    parts = {name: getattr(held, name) for name in ("weights", "gradients", "optimiser", "averages")}
    memory = ", ".join(f"{name} {in_bytes(size)}" for name, size in parts.items())
    memory += f", {in_bytes(held.image)} an image, {at_once(settings, workers):,} at once"
    checkpoint, kept = _checkpoint_bytes(recipe, held.weights, workers), _kept(recipe, images)
    disk = {"RUN": (checkpoint * kept, f"{several(kept, 'checkpoint')} of {in_bytes(checkpoint)}"), **disk}
    some = f", {found.processes} of {several(workers, 'worker')} at work" if found.processes < workers else ""
    return Estimate(
        f"measured in {found.seconds:.0f} s on {found.device}{some}; nothing was trained or written",
        (training, *evaluation),
        totals,
        found.peak_bytes,
        free,
        f"each worker's peak; {memory}",
        disk,
        {
            "training_s": training.seconds,
            "training_hours": training.hours,
            "evaluation_s": evaluation[0].seconds,
            "evaluation_hours": evaluation[0].hours,
            "training_unit": training.unit,
            "evaluation_unit": evaluation[0].unit,
            "total_s": {name: sum(part.seconds for part in both) for name, both in totals.items()},
            "images": images,
            "step_s": found.step_s,
            "step_cpu_s": found.step_cpu_s,
            "sample_evaluation_s": found.sample_s,
            "likelihood_evaluation_s": found.likelihood_s,
            "peak_bytes": found.peak_bytes,
            **{f"{name}_bytes": size for name, size in parts.items()},
            "image_bytes": held.image,
            "images_at_once": at_once(settings, workers),
            "free_bytes": free,
            "disk_bytes": {name: size for name, (size, _) in disk.items()},
            "parts": {part.name: {"seconds": part.seconds, "hours": part.hours} for part in evaluation[1:]},
            "measured_s": found.seconds,
        },
    )


def of_folder(folder: str, manifest: Manifest) -> Data:
    """A prepared data set.

    Raises: DataError if it holds nothing to train on.
    """
    if "train" not in manifest.splits:
        raise DataError("no training images", folder, "prepare it anew, from more pictures")
    return Data(folder, manifest.splits["train"].images, manifest.shape, len(manifest.classes))


def of_source(source: Source, settings: Preparation) -> tuple[Data, tuple[int, str]]:
    """What stands for a source that is not prepared yet, and the bytes of its shards, with their words.

    Raises: DataError if the source cannot be listed.
    """
    items = source.items()
    labels = {item.label for item in items if item.label is not None}
    images = max(1, len(items))
    size = images * sample_bytes(settings)
    words = f"{images:,} pictures" + (" as PNG" if settings.encoding == "png" else "")
    return Data("", images, settings.shape, len(labels)), (size, words)


def _training(recipe: Recipe, found: Measured, workers: int, step_s: float, method: str) -> tuple[Part, int]:
    """The training by steps of so many seconds, and the images that it will see."""
    settings = recipe.training
    steps = math.ceil(settings.total_images / settings.batch_images)
    limit = settings.max_seconds or math.inf
    saves = math.ceil(settings.total_images / settings.save_images)
    nfe = expected_nfe(tightest(recipe.evaluation), method)
    grid_s = 0.0 if _on_gpu(found) else GRID * nfe * found.sample_s  # on a GPU a few steps
    seconds = min(steps * step_s + saves * grid_s, limit)
    if seconds == limit:
        steps = math.ceil(limit / step_s)
    words = f"{several(steps, 'step')} of {several(settings.batch_images, 'image')}, {in_time(step_s)} each"
    carried = "" if found.step_images == found.share_images else f", carried on from {found.step_images} a worker"
    if _disturbed(recipe, found):
        carried += f"; {in_time(found.step_cpu_s)} of them on its core: other work is in the way"
    words += f" (mean of {found.steps}{carried})"
    words += f", and {several(saves, 'grid')} of samples, {in_time(grid_s)} each" if grid_s else ""
    words += ", by its time limit" if seconds == limit else ""
    per_worker = 1 if _on_gpu(found) else settings.threads
    unit = "GPU-hours" if _on_gpu(found) else "core-hours"
    return Part("training", seconds, seconds * workers * per_worker, unit, words), steps * settings.batch_images


def _disturbed(recipe: Recipe, found: Measured) -> bool:
    """Whether other work keeps a step from its cores."""
    return found.step_s > BUSY * found.step_cpu_s / recipe.training.threads and not _on_gpu(found)


def _evaluation(recipe: Recipe, found: Measured, data: Data, method: str) -> list[Part]:
    """The whole, then its parts: the features that all cells share, and each cell, the untrained one last."""
    settings = recipe.evaluation
    reference = found.features_s * (settings.reference_images + min(data.images, settings.samples))
    grid = cells(settings)
    baseline = min(grid, key=lambda cell: cell.nfe or 1000)
    parts = [Part("  reference", reference, reference, "core-hours", "features of real images, once")]
    if settings.error_images:
        nfe = expected_nfe(Cell(solver="dopri5", tolerance=CONVERGED_TOLERANCE), method)
        words = f"{settings.error_images:,} samples x assumed {nfe} evaluations, which errors are measured against"
        seconds = settings.error_images * nfe * found.sample_s
        parts.append(Part("  converged", seconds, seconds, "core-hours", words))
    parts += [_cell(cell, settings, found, method) for cell in grid]
    parts.append(_cell(baseline, settings, found, method, trained=False))
    slots = os.cpu_count() or 1
    seconds = reference + makespan((part.seconds for part in parts[1:]), slots)
    total = sum(part.taken_s for part in parts)
    words = f"{len(grid) + 1} cells in {several(slots, 'slot')} of this machine, on its CPU, as on idle cores"
    return [Part("evaluation", seconds, total, "core-hours", words), *parts]


def _cell(cell: Cell, settings: Evaluation, found: Measured, method: str, trained: bool = True) -> Part:
    nfe, finer = (expected_nfe(cell, method, finer) for finer in (False, True))
    if not trained and cell.tolerance is not None:
        nfe = finer = UNTRAINED_NFE
    assumed = ("assumed " if trained else "counted ") if cell.tolerance is not None else ""
    sampling = cell.samples * (nfe * found.sample_s + found.features_s)
    words = f"{cell.samples:,} samples x {assumed}{nfe} evaluations of {in_time(found.sample_s)}"
    likelihood = 0.0
    if cell.nll_images and not tableau(cell.solver).one_way:
        likelihood = cell.nll_images * cell.nll_k * (nfe + finer) * found.likelihood_s
        likelihood += cell.nll_training_images * cell.nll_k * nfe * found.likelihood_s
        words += f"; bits/dim: {cell.nll_images:,} images x K {cell.nll_k} x {assumed}{nfe} + {finer} of "
        words += in_time(found.likelihood_s)
    seconds = sampling + likelihood + found.distances_s
    return Part(("  " if trained else "  untrained, ") + str(cell), seconds, seconds, "core-hours", words)


def expected_nfe(cell: Cell, method: str, finer: bool = False) -> int:
    """Evaluations of one solve: the cell's own, or what a trained network of this method takes at that tolerance.

    The steps of a method of order five grow with the fifth root of the tolerance; the start is Table 1 of the paper.
    """
    if cell.tolerance is None:
        return (cell.nfe or 0) * (2 if finer else 1)
    name = next((name for name in EXPECTED_NFE if method.startswith(name)), "FM w/ Diffusion")
    tolerance = cell.tolerance / 10 if finer else cell.tolerance
    return max(LEAST_NFE, round(EXPECTED_NFE[name] * (1e-5 / tolerance) ** 0.2))


def _method(recipe: Recipe, shape: tuple[int, int, int]) -> str:
    with torch.device("meta"):
        model, objective = recipe.build(shape, None)
    return Flow(model, objective, shape).method


def makespan(seconds: Iterable[float], slots: int) -> float:
    """When the last of the jobs is done, the longest begun first."""
    free = [0.0] * slots
    for job in sorted(seconds, reverse=True):
        heapq.heappush(free, heapq.heappop(free) + job)
    return max(free)


def _on_gpu(found: Measured) -> bool:
    return found.device != "CPU"


def _checkpoint_bytes(recipe: Recipe, weights: int, workers: int) -> int:
    """Whole, however many workers hold shards of it: weights, averages, two moments."""
    whole = weights * (workers if recipe.training.fsdp else 1)
    return whole * (3 + len(recipe.training.ema_halflife_kimg))


def _kept(recipe: Recipe, images: int) -> int:
    settings = recipe.training
    saved = max(1, math.ceil(images / settings.save_images))
    for_good = images // settings.keep_every_images if settings.keep_every_images else 0
    return min(saved, settings.keep + for_good)

"""From what was measured to the parts of the work: a training, the cells of an evaluation, their cores and GPUs."""

import heapq
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fm.cells import Budget, Cell, Evaluation, along, cells, in_grid, tightest
from fm.columns import CONVERGED_TOLERANCE
from fm.errors import several
from fm.estimating.measuring import Data, Measured
from fm.estimating.units import in_time, short
from fm.flow import Flow
from fm.keeping import staying
from fm.optimised import CALLS, NOISES, OPTIMISED
from fm.progress import GRID
from fm.recipe import Recipe
from fm.tableaux import tableau
from fm.training import Training

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


def taken(parts: Iterable[Part]) -> str:
    """Core-hours and GPU-hours, each summed: `12 GPU-hours + 1.4 core-hours`."""
    sums: Counter[str] = Counter()
    for part in parts:
        sums[part.unit] += part.hours  # type: ignore[assignment]
    return " + ".join(f"{short(hours, 2)} {unit}" for unit, hours in sums.items())


def training(recipe: Recipe, found: Measured, workers: int, step_s: float, method: str) -> tuple[Part, int]:
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
    if disturbed(recipe, found):
        carried += f"; {in_time(found.step_cpu_s)} of them on its core: other work is in the way"
    words += f" (mean of {found.steps}{carried})"
    words += f", and {several(saves, 'grid')} of samples, {in_time(grid_s)} each" if grid_s else ""
    words += ", by its time limit" if seconds == limit else ""
    per_worker = 1 if _on_gpu(found) else settings.threads
    return Part("training", seconds, seconds * workers * per_worker, unit(found), words), steps * settings.batch_images


def disturbed(recipe: Recipe, found: Measured) -> bool:
    """Whether other work keeps a step from its cores."""
    return found.step_s > BUSY * found.step_cpu_s / recipe.training.threads and not _on_gpu(found)


def evaluation(recipe: Recipe, found: Measured, data: Data, method: str, images: int) -> list[Part]:
    """The whole of a network that has seen so many images, then its parts, the features that all cells share first."""
    real, measured = reference(recipe.evaluation, found, data), cell_parts(recipe, found, method, images)
    at_once = slots(found)
    seconds = real.seconds + makespan((part.seconds for part in measured), at_once)
    total = sum(part.taken_s for part in (real, *measured))
    of = "its GPUs" if _on_gpu(found) else "its CPU, as on idle cores"
    words = f"{len(measured)} parts in {several(at_once, 'slot')} of this machine, on {of}"
    return [Part("evaluation", seconds, total, unit(found), words), real, *measured]


def reference(settings: Evaluation, found: Measured, data: Data) -> Part:
    """What is measured once for all networks on the data."""
    seconds = found.features_s * (settings.reference_images + min(data.images, settings.samples))
    return Part("  reference", seconds, seconds, unit(found), "features of real images, once, at most")


def cell_parts(recipe: Recipe, found: Measured, method: str, images: int) -> list[Part]:
    """Each cell, after the solutions that errors are measured against and the choice of optimised grids, and before the
    point that is measured along the training; the untrained cell last."""
    settings = recipe.evaluation
    grid = cells(settings)
    baseline = min(grid, key=lambda cell: cell.nfe or 1000)
    parts = [_converged(settings, found, method)] if settings.error_images else []
    parts += [_grids(found)] if any(cell.grid == OPTIMISED for cell in grid) else []
    parts += [_cell(cell, settings, found, method) for cell in grid]
    if point := along(settings):
        count = len(checkpoints(recipe.training, images)) - in_grid(point, grid)
        one = _cell(point, settings, found, method)
        seconds, words = count * one.seconds, f"{several(count, 'checkpoint')} x {one.words}"
        parts.append(Part(f"  along, {point}", seconds, seconds, unit(found), words))
    return [*parts, _cell(baseline, settings, found, method, trained=False)]


def guided_parts(recipe: Recipe, points: Sequence[Mapping[str, Any]], found: Measured, method: str) -> list[Part]:
    """Cells beside the recipe's grid, whose guide is trained with the network."""
    settings = recipe.evaluation.model_copy(update={"grid": tuple(Budget(**point) for point in points)})
    return [_cell(cell, settings, found, method) for cell in cells(settings)] if points else []


def drawing(images: int, tolerance: float, found: Measured, method: str) -> Part:
    """So many images drawn by a trained network of this method, which another one is trained on."""
    nfe = expected_nfe(Cell(solver="dopri5", tolerance=tolerance), method)
    seconds = images * nfe * found.sample_s
    words = f"{images:,} images x assumed {nfe} evaluations of {in_time(found.sample_s)}"
    return Part("  drawn images", seconds, seconds, unit(found), words)


def _converged(settings: Evaluation, found: Measured, method: str) -> Part:
    nfe = expected_nfe(Cell(solver="dopri5", tolerance=CONVERGED_TOLERANCE), method)
    seconds = settings.error_images * nfe * found.sample_s
    words = f"{settings.error_images:,} samples x assumed {nfe} evaluations, which errors are measured against"
    return Part("  converged", seconds, seconds, unit(found), words)


def _grids(found: Measured) -> Part:
    seconds = NOISES * CALLS * found.sample_s
    words = f"{NOISES} noises x about {CALLS:,} evaluations, from which optimised grids are chosen"
    return Part("  grids", seconds, seconds, unit(found), words)


def _cell(cell: Cell, settings: Evaluation, found: Measured, method: str, trained: bool = True) -> Part:
    nfe, finer = (expected_nfe(cell, method, finer) for finer in (False, True))
    if not trained and cell.tolerance is not None:
        nfe = finer = UNTRAINED_NFE
    assumed = ("assumed " if trained else "counted ") if cell.tolerance is not None else ""
    sampling = cell.samples * (nfe * found.sample_s + found.features_s)
    words = f"{cell.samples:,} samples x {assumed}{nfe} evaluations of {in_time(found.sample_s)}"
    likelihood = 0.0
    if cell.nll_images and not tableau(cell.solver).one_way:
        likelihood = _likelihood(cell, found, nfe, finer)
        words += f"; bits/dim: {cell.nll_images:,} images x K {cell.nll_k} x {assumed}{nfe} + {finer} of "
        words += in_time(found.likelihood_s)
        words += f", and {cell.nll_training_images:,} training images x {nfe}" if cell.nll_training_images else ""
    seconds = sampling + likelihood + found.distances_s
    name = ("  " if trained else "  untrained, ") + str(cell)
    name += f", seed {cell.seed}" if settings.seeds > 1 else ""
    return Part(name, seconds, seconds, unit(found), words)


def _likelihood(cell: Cell, found: Measured, nfe: int, finer: int) -> float:
    """Seconds for the held-out images, which are solved again with finer steps, and for the training images."""
    images = cell.nll_images + cell.nll_training_images
    seconds = (images * nfe + cell.nll_images * finer) * cell.nll_k * found.likelihood_s
    if cell.nll_probe == "both":  # a second divergence in the same pass for every draw but the first
        seconds += images * nfe * (cell.nll_k - 1) * max(0.0, found.likelihood_s - found.sample_s)
    return seconds


def expected_nfe(cell: Cell, method: str, finer: bool = False) -> int:
    """Evaluations of one solve, guidance's among them: the cell's own, or what a network of this method takes, trained,
    at that tolerance, twice as many with guidance.

    The steps of a method of order five grow with the fifth root of the tolerance; the start is Table 1 of the paper.
    """
    if cell.tolerance is None:
        return (cell.nfe or 0) * (2 if finer else 1)
    name = next((name for name in EXPECTED_NFE if method.startswith(name)), "FM w/ Diffusion")
    tolerance = cell.tolerance / 10 if finer else cell.tolerance
    alone = max(LEAST_NFE, round(EXPECTED_NFE[name] * (1e-5 / tolerance) ** 0.2))
    return alone * (2 if cell.guidance else 1)


def method_of(recipe: Recipe, shape: tuple[int, int, int]) -> str:
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


def unit(found: Measured) -> str:
    """Of which hours are counted: a training's and, where there is a GPU, an evaluation's too."""
    return "GPU-hours" if _on_gpu(found) else "core-hours"


def slots(found: Measured) -> int:
    """How many parts of an evaluation this machine does at once."""
    return torch.cuda.device_count() if _on_gpu(found) else os.cpu_count() or 1


def checkpoints(settings: Training, images: int) -> list[int]:
    """The images seen of those that stand when a training has seen so many, the newest last."""
    batch = settings.batch_images
    due = range(settings.save_images, images, max(settings.save_images, batch))
    saved = {-(-at // batch) * batch for at in due} | {images}
    return sorted(staying(saved, settings.keep, settings.keep_every_images))

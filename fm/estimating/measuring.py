"""What this machine takes for a recipe's work: real training steps and evaluations, in as many processes as will run.

All of it is the library's own: the loop, the stream of batches, sampling, likelihood, features, distances. Nothing is
written but a file of results in a temporary folder. Each part is bounded: what takes long is measured on fewer images,
and what takes longer than that once.
"""

import logging
import os
import pickle
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from numpy.typing import NDArray
from torch import Tensor, nn

from fm.arithmetic import as_asked
from fm.cells import cells
from fm.checkpoints import Store
from fm.columns import distances_of
from fm.data import ShardedImages
from fm.drawing import is_conditional
from fm.errors import UserError, several
from fm.estimating.units import in_time
from fm.flow import Flow
from fm.footprint import Footprint, at_once
from fm.metrics import load_features
from fm.pairing import stream_of
from fm.parallel import World
from fm.progress import Progress
from fm.recipe import Recipe
from fm.training import train

LEAST_IMAGES = 8  # from fewer nothing is carried on, unless these would take longer than the budget
BUDGET_S = 20.0  # for each thing that is measured; what takes longer is measured on fewer images and carried on
NEVER = 10**15  # images


def silent(line: str) -> None:
    """Says nothing."""


class Stand:
    """Random images in place of a data set that is not made yet: `images` of `shape`, in so many classes."""

    raw = True

    def __init__(self, images: int, shape: tuple[int, int, int], classes: int, low_size: int | None = None) -> None:
        self.sizes, self.shape, self.classes = [images], shape, [str(i) for i in range(classes)]
        self.low_size = low_size

    def keep(self, shards: Any) -> None:
        """There is nothing to close."""

    def take(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        return self._pictures(len(indices), self.shape[-1]), indices % max(1, len(self.classes))

    def low(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self._pictures(len(indices), self.low_size or 1)

    def _pictures(self, count: int, side: int) -> NDArray[np.uint8]:
        return np.random.default_rng(0).integers(256, size=(count, side, side, self.shape[0]), dtype=np.uint8)


@dataclass(frozen=True)
class Data:
    """What a training reads: a prepared folder, or (its folder empty) what stands for one that is not made yet."""

    folder: str
    images: int
    shape: tuple[int, int, int]
    classes: int
    low_size: int | None = None

    def open(self) -> Any:
        if not self.folder:
            return Stand(self.images, self.shape, self.classes, self.low_size)
        return ShardedImages(self.folder, "train", cache=os.environ.get("FM_CACHE"))


@dataclass(frozen=True)
class Measured:
    """Seconds and bytes of one worker, the slowest one's."""

    device: str
    processes: int  # that worked at once
    share_images: int  # of the global batch, each worker's
    step_images: int  # of them, in the steps that were measured
    steps: int
    step_s: float  # of a whole share
    step_cpu_s: float  # of the processor in it: much less, where other work is in the way
    sample_s: float  # one evaluation of the network for one sample
    likelihood_s: float  # one evaluation with its divergence for one image
    features_s: float  # of one image
    distances_s: float  # of one cell
    footprint: Footprint
    peak_bytes: int  # of the process while it trained, carried on to what the run holds at once
    seconds: float  # that the measuring took


@dataclass(frozen=True)
class Job:
    """What the processes are told."""

    recipe: Recipe
    data: Data
    workers: int
    cuda: bool
    need: Footprint
    say: Callable[[str], None] = silent


def measure(recipe: Recipe, data: Data, workers: int, need: Footprint, say: Callable[[str], None] = silent) -> Measured:
    """Measures in as many of the workers' processes as this machine has slots for, all at once.

    `need` is the training's, which fits; `say` is told of each part as it begins, and can be pickled.

    Raises: UserError, what any of them met.
    """
    start, cuda = time.monotonic(), torch.cuda.is_available()
    slots = torch.cuda.device_count() if cuda else max(1, (os.cpu_count() or 1) // recipe.training.threads)
    processes = min(workers, slots)
    say(f"starting {several(processes, 'worker')}")
    with tempfile.TemporaryDirectory() as folder:
        _together(processes, Job(recipe, data, workers, cuda, need, say), folder)
        found = [pickle.loads(file.read_bytes()) for file in sorted(Path(folder).glob("found-*"))]
    slowest = max(found, key=lambda one: one["step_s"])
    return Measured(**slowest, processes=processes, seconds=time.monotonic() - start)


def _together(processes: int, job: Job, folder: str) -> None:
    """Fresh processes, as a run has them: what this one holds is not counted."""
    # When one fails the others are ended, which torch would warn of beside the one sentence that says why.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    try:
        # As daemons they end with this process, be it by Ctrl-C.
        mp.start_processes(_work, (processes, job, folder), processes, daemon=True, start_method="spawn")
    except (mp.ProcessRaisedException, mp.ProcessExitedException) as error:
        if failed := sorted(Path(folder).glob("error-*")):
            raise pickle.loads(failed[0].read_bytes()) from None
        if isinstance(error, mp.ProcessExitedException):
            what = f"a process that measured was ended ({error.signal_name or error.exit_code})"
            raise UserError(what, "--estimate", "is the machine short of memory? take fewer workers") from None
        raise


def _work(rank: int, processes: int, job: Job, folder: str) -> None:
    try:
        if processes > 1:
            meet, backend = f"file://{folder}/meet", "nccl" if job.cuda else "gloo"
            dist.init_process_group(backend, init_method=meet, rank=rank, world_size=processes)
        if job.cuda:
            torch.cuda.set_device(rank)
        found = _measured(job, World.current(), f"cuda:{rank}" if job.cuda else "cpu")
        Path(folder, f"found-{rank}").write_bytes(pickle.dumps(found))
    except UserError as error:
        Path(folder, f"error-{rank}").write_bytes(pickle.dumps(error))
        raise


def _measured(job: Job, world: World, device: str) -> dict[str, Any]:
    recipe, dataset, say = job.recipe, job.data.open(), job.say if world.first else silent
    settings, shape = recipe.training, tuple(dataset.shape)
    build = partial(recipe.build, shape, len(dataset.classes) or None)
    share = -(-settings.batch_images // job.workers)
    cpu: list[float] = []
    steps = partial(_steps, build, dataset, recipe, world, device, cpu)
    slowest = lambda seconds: max(world.gather(seconds))  # noqa: E731
    images, times, step_s = carried(steps, share, slowest, say, "training steps of {} on each worker")
    peak = torch.cuda.max_memory_allocated() if job.cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak += job.need.image * max(0, at_once(settings, job.workers) - min(images, at_once(settings, job.workers)))
    measured = {
        "device": torch.cuda.get_device_name() if job.cuda else "CPU",
        "share_images": share,
        "step_images": images,
        "steps": len(times),
        "step_s": step_s,
        "step_cpu_s": mean(cpu) * step_s / mean(times),
        "footprint": job.need,
        "peak_bytes": peak,
    }
    return measured | _evaluations(recipe, *build(), shape, dataset, say, device)


def carried(
    work: Callable[[int, float], list[float]],
    most: int,
    agreed: Callable[[float], float] = lambda seconds: seconds,
    say: Callable[[str], None] = silent,
    what: str = "{}",
) -> tuple[int, list[float], float]:
    """Images, seconds of each repeat of work(images, budget) on as many as the budget allows, seconds for `most`.

    Where `most` would take too long, time grows by a line through the fastest of one image and of those that it does
    allow. The line is noisy where these are few, so an image more takes at least half of their mean and at most all.
    `what` is said of each number of images, with it in the place of {}.
    """
    say(what.format("1 image"))
    times = work(1, 0.0)
    one = agreed(min(times))
    wanted = min(most, max(LEAST_IMAGES, int(BUDGET_S / (4 * one))))
    images = min(wanted, max(1, int(BUDGET_S / one)))
    if images == 1 and one > BUDGET_S / 4:
        say(f"it took {in_time(one)}: measured once, with 1 of {several(most, 'image')}")
    else:
        few = f" and not of {wanted:,}, as one took {in_time(one)}" if images < wanted else ""
        say(what.format(several(images, "image")) + few)
        times = work(images, BUDGET_S / 2)
    fastest = min(times)
    slope = (fastest - one) / (images - 1) if images > 1 else fastest
    slope = min(max(slope, fastest / images / 2), fastest / images)
    # Every step counts, the slow ones too: the run will meet as many.
    return images, times, mean(times) * (1 + slope * (most - images) / fastest)


def _steps(
    build: Callable[[], tuple[nn.Module, Any]],
    dataset: Any,
    recipe: Recipe,
    world: World,
    device: str,
    cpu: list[float],
    images: int,
    budget_s: float,
) -> list[float]:
    """Seconds of each step of the loop with `images` on every worker, and in `cpu` those of the processor.

    The first step, which builds up, is left out, unless it takes so long that it is the only one; the loop is left in
    the middle: no checkpoint is written.
    """
    real = images * world.size == recipe.training.batch_images
    changes: dict[str, Any] = {
        "batch_images": images * world.size,
        "report_images": 1,
        "total_images": NEVER,
        "save_images": NEVER,
    }
    changes |= {"max_seconds": None, "coupling_block_images": recipe.training.coupling_block_images if real else None}
    settings = recipe.training.model_copy(update=changes)
    model, objective = build()
    batches_from = stream_of(dataset, settings, world, is_conditional(model), device, recipe.super_resolution)
    with tempfile.TemporaryDirectory() as nothing_there:
        events = train(model, objective, settings, batches_from, Store(nothing_there), world, device=device)
        begun = time.process_time()
        reports = (_costs(e, settings.batch_images) for e in events if isinstance(e, Progress))
        first = next(reports)
        if max(world.gather(first[0])) > BUDGET_S / 2:
            cpu[:] = [first[1] - begun]
            return [first[0]]
        second = next(reports)
        count = min(60, max(1, int(budget_s / max(world.gather(second[0])))))
        costs = [second, *islice(reports, count)]
    cpu[:] = [later - earlier for (_, earlier), (_, later) in pairwise(costs)]
    return [seconds for seconds, _ in costs[1:]]


def _costs(report: Progress, images: int) -> tuple[float, float]:
    """Seconds of the step that was reported, and the processor's since the process began."""
    return images / report.images_per_s, time.process_time()


def _evaluations(
    recipe: Recipe,
    model: nn.Module,
    objective: Any,
    shape: tuple[int, ...],
    dataset: Any,
    say: Callable[[str], None],
    device: str,
) -> dict[str, float]:
    """Seconds of a core, or of a GPU, for one sample, image or cell: the evaluation's tasks have one each."""
    settings, grid = recipe.evaluation, cells(recipe.evaluation)
    classes = tuple(dataset.classes) if recipe.class_conditional else None
    side = recipe.low_size
    flow = Flow(model.to(device), objective, shape, classes, low_size=side)
    features = load_features(settings.features, device)
    images = torch.randint(256, (max(settings.batch, 8), *shape), dtype=torch.uint8)
    small = torch.randint(256, (len(images), shape[0], side, side), dtype=torch.uint8) if side else None

    def low(count: int) -> Tensor | None:
        return None if small is None else small[:count]

    def sampling(count: int) -> Any:
        with as_asked(flow.device, tf32=settings.sampling_precision == "tf32"):
            return flow.draw(count, batch=count, low=low(count), method="euler", nfe=2)

    def likelihood(count: int) -> Any:
        return flow.bits_per_dim(images[:count], batch=count, low=low(count), method="euler", nfe=2)

    def distances() -> Callable[[], Any]:
        one = features(images[:1])

        def spread(count: int) -> Tensor:
            return one.expand(count, -1) + torch.randn(count, one.shape[1])

        samples, heldout = spread(min(settings.samples, 2000)), spread(min(settings.reference_images, 2000))
        return partial(distances_of, settings.distances, samples, heldout, samples)

    samples = min(settings.batch, max(cell.samples for cell in grid))
    scored = min(settings.batch, max(cell.nll_images for cell in grid))
    with _one_thread():
        return {
            "sample_s": _each(sampling, samples, say, "two evaluations of the network for {}") / 2,
            "likelihood_s": _each(likelihood, scored, say, "two evaluations with their divergence for {}") / 2,
            "features_s": _each(lambda count: features(images[:count]), 8, say, "the features of {}"),
            "distances_s": _timed(distances()),
        }


def _each(work: Callable[[int], Any], most: int, say: Callable[[str], None], what: str) -> float:
    """Seconds of a core or GPU in work(most), for each image."""
    if most < 1:
        return 0.0

    def repeated(images: int, budget_s: float) -> list[float]:
        first = _timed(lambda: work(images))
        if first > BUDGET_S / 4:  # what the first call prepares is little beside it
            return [first]
        count = min(10, int(budget_s / 4 / first))
        return [_timed(lambda: work(images)) for _ in range(count)] or [_timed(lambda: work(images))]

    return carried(repeated, most, say=say, what=what)[2] / most


def _timed(work: Callable[[], Any]) -> float:
    start = _clock()
    work()
    return _clock() - start


def _clock() -> float:
    """Seconds of this process's core; where there is a GPU those that pass until it has done what was begun."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

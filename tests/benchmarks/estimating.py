"""Estimates against the runs that follow: `python -m tests.benchmarks estimating` prints the rows.

Three presets, twice each, two workers. The run is the loop in fresh processes with its checkpoints, then every cell of
the grid. CPU seconds are one worker's: other work on the machine does not lengthen them.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from fm.cells import cells, tightest
from fm.checkpoints import Saved, Store
from fm.data import ShardedImages, load_manifest, open_source, write_shards
from fm.estimating.counting import count
from fm.estimating.estimate import Estimate, estimate, of_folder
from fm.evaluation import evaluate
from fm.facts import on_data
from fm.metrics import load_features
from fm.pairing import stream_of
from fm.parallel import World
from fm.progress import Progress
from fm.recipe import Recipe, load, opened, untrained
from fm.reference import measure_reference
from fm.training import train
from tasks.on_workers import draw_samples
from tests.benchmarks.timing import Row

WORKERS = 2
# Steps, images of each, and what else is set: the last is larger than what an estimate measures whole.
RUNS: dict[str, tuple[int, int, list[str]]] = {
    "tiny": (150, 64, []),
    "demo": (30, 64, []),
    "cifar10-otcfm": (
        4,
        64,
        [
            "training.batch_images=64",
            "training.report_images=64",
            'evaluation.grid=[{solver="euler", nfe=4}]',
            "evaluation.samples=32",
            "evaluation.batch=16",
            "evaluation.reference_images=100",
            "evaluation.nll_images=2",
        ],
    ),
}


def estimating(folder: Path) -> Iterator[Row]:
    for preset, (steps, images, changes) in RUNS.items():
        whole = ["training.max_seconds=none", f"training.total_images={images * steps}"]
        recipe = Recipe.load(preset, [*whole, *changes])
        data = folder / preset
        manifest = write_shards(open_source("photos:?tiles=100"), data, recipe.data)
        for attempt in ("a", "b"):
            read = of_folder(str(data), manifest)
            said = estimate(recipe, read, count(recipe, read, WORKERS), {})
            yield from compared(preset, steps, said, recipe, data, folder / f"{preset}-{attempt}")


def compared(preset: str, steps: int, said: Estimate, recipe: Recipe, data: Path, run: Path) -> Iterator[Row]:
    with opened(run, recipe) as place:
        on_data(place, data, load_manifest(data))
    mp.start_processes(training, (recipe, data, run), WORKERS, start_method="spawn")
    wall, cpu, peak = torch.load(run / "took", weights_only=True)
    what, values = f"estimate, {preset}, {steps} steps", said.values
    yield f"{what}, wall: {said.parts[0].seconds:.1f} s", f"the run {wall:.1f} s", said.parts[0].seconds / wall
    grids_s = said.parts[0].seconds - steps * values["step_s"]
    own = steps * values["step_cpu_s"] + grids_s
    yield f"{what}, CPU of a worker: {own:.1f} s", f"the run {cpu:.1f} s", own / cpu
    yield f"{what}, peak: {said.peak_bytes / 2**20:.0f} MiB", f"the run {peak / 2**20:.0f} MiB", said.peak_bytes / peak
    hours, took = said.values["evaluation_hours"], evaluated(recipe, data, run)
    what = f"estimate, {preset}, evaluation, CPU: {3600 * hours:.1f} s"
    yield what, f"the run {sum(took.values()):.1f} s", 3600 * hours / sum(took.values())
    fixed = {name: part["hours"] * 3600 for name, part in values["parts"].items() if "dopri5" not in name}
    mine, theirs = sum(fixed.values()), sum(s for name, s in took.items() if "dopri5" not in name)
    yield f"the same without dopri5: {mine:.1f} s", f"the run {theirs:.1f} s", mine / theirs


def training(rank: int, recipe: Recipe, data: Path, run: Path) -> None:
    """One worker, as `tasks/on_workers.py` has it; the first notes what it took."""
    import resource

    dist.init_process_group("gloo", init_method=f"file://{run}/meet", rank=rank, world_size=WORKERS)
    world, dataset = World.current(), ShardedImages(data, "train")
    model, objective = recipe.build(dataset.shape, None)
    stream = stream_of(dataset, recipe.training, world, conditional=False)
    marks, saved, grid = [], None, (0.0, 0.0)
    for event in train(model, objective, recipe.training, stream, Store(run), world):
        if isinstance(event, Progress):
            marks.append((event.images_seen, time.process_time()))
        elif isinstance(event, Saved) and rank == 0:
            saved, before = event, (time.monotonic(), time.process_time())
            draw_samples(run, event, tightest(recipe.evaluation))
            grid = time.monotonic() - before[0], time.process_time() - before[1]
    if rank == 0 and saved:  # the clock stopped before the last grid
        (first, start), *_, (last, end) = marks
        cpu = (end - start) * last / (last - first) + grid[1]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        torch.save([saved.seconds + grid[0], cpu, peak], run / "took")
    dist.destroy_process_group()


def evaluated(recipe: Recipe, data: Path, run: Path) -> dict[str, float]:
    """CPU seconds of every part of the evaluation, by name."""
    took: dict[str, float] = {}

    def timed(name: str, work: Any) -> Any:
        start = time.process_time()
        found = work()
        took[name] = time.process_time() - start
        return found

    features, settings = load_features(recipe.evaluation.features), recipe.evaluation
    sets = ShardedImages(data, "train"), ShardedImages(data, "test")
    reference = timed("reference", lambda: measure_reference(*sets, features, settings))
    flow, grid = load(run), cells(settings)
    rows = [timed(str(cell), lambda cell=cell: evaluate(flow, cell, features, reference)) for cell in grid]
    print([(str(cell), row["nfe_mean"], row["nll_nfe"]) for cell, row in zip(grid, rows, strict=True)], flush=True)
    timed("untrained", lambda: evaluate(untrained(run), grid[0], features, reference))
    return took

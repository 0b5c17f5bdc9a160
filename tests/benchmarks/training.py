"""What the training loop costs beside the network: `python -m tests.benchmarks training` prints the rows.

Preset demo, one thread. Ours and a bare loop take turns step by step: a machine that is slow for a while is slow for
both. CPU seconds are those of the whole process.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from fm.checkpoints import Store
from fm.data import ShardedImages, batches, open_source, write_shards
from fm.ema import averages
from fm.optimizer import Adam
from fm.parallel import ALONE, Gradients
from fm.progress import Progress
from fm.recipe import Recipe
from fm.records import Recorder
from fm.state import State
from fm.training import Training, train
from tests.benchmarks.timing import Row

STEPS = 30
Seconds = tuple[float, float]  # CPU, wall


def timed(work: Callable[[], Any]) -> Seconds:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


class Waited:
    """A stream of batches that notes what each wait for one cost."""

    def __init__(self, stream: Iterator[Any]) -> None:
        self.stream, self.costs = stream, []

    def __iter__(self) -> "Waited":
        return self

    def __next__(self) -> Any:
        found = []
        self.costs.append(timed(lambda: found.append(next(self.stream))))
        return found[0]


def bare(recipe: Recipe) -> Callable[[], None]:
    """One step as a notebook has it: the same network, loss, batch, clipping, Adam and average, from fixed tensors."""
    settings, shape = recipe.training, recipe.data.shape
    model, objective = recipe.build(shape, None)
    adam = torch.optim.Adam(model.parameters(), settings.learning_rate)
    average = [p.detach().clone() for p in model.parameters()]
    x, t = torch.randn(settings.batch_images, *shape), torch.rand(settings.batch_images)

    def step() -> None:
        adam.zero_grad()
        objective.loss(model, x, t=t, z=x).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm or 1.0)
        adam.step()
        with torch.no_grad():
            for old, new in zip(average, model.parameters(), strict=True):
                old.lerp_(new, 0.01)

    return step


def training(folder: Path) -> Iterator[Row]:
    recipe = Recipe.load("demo", ["training.max_seconds=none", "training.report_images=64"])
    default = Training.model_fields["save_images"].default
    settings = recipe.training
    write_shards(open_source("photos:?tiles=200"), folder / "data", recipe.data)
    dataset = ShardedImages(folder / "data", "train")
    waits = Waited(batches(dataset, settings.batch_images))
    model, objective = recipe.build(recipe.data.shape, None)
    events = train(model, objective, settings, lambda start: waits, Store(folder / "run"))
    records = Recorder(folder / "records")

    def ours() -> None:
        event = next(event for event in events if isinstance(event, Progress))
        records.write(time=time.time(), **event.values())

    step = bare(recipe)
    for work in (ours, step):  # what is built at the first step is no step's cost
        work()
    pairs = [(timed(ours), timed(step)) for _ in range(STEPS)]
    saving = checkpoint(model, settings, Store(folder / "saved"))
    for which, unit in enumerate(("CPU", "wall")):
        mine, theirs = median(m[which] for m, _ in pairs), median(b[which] for _, b in pairs)
        ratio = median(m[which] / b[which] for m, b in pairs)
        yield f"step of the loop, {unit}: {1000 * mine:.0f} ms", f"bare loop {1000 * theirs:.0f} ms", ratio
        wait = median(cost[which] for cost in waits.costs)
        yield f"wait for data, {unit}: {1000 * wait:.2f} ms", f"the loop's step {1000 * mine:.0f} ms", wait / mine
        between = mine * default / settings.batch_images
        what = "on all threads" if unit == "CPU" else "of waiting"
        yield (
            f"checkpoint, {unit}: {1000 * saving[which]:.0f} ms {what}",
            f"{between:,.0f} s of training between two ({default:,} images)",
            saving[which] / between,
        )


def checkpoint(model: nn.Module, settings: Training, store: Store, repeats: int = 5) -> Seconds:
    """Of the CPU what a checkpoint costs on all threads; of the clock what the training thread waits for."""
    adam = Adam(model, Gradients(model, ALONE, {}))
    state, found = State(model, adam, averages(model, settings.ema_halflife_kimg, settings.ema_ramp)), []
    for number in range(repeats):
        state.images_seen, state.tally = number, {}
        start = time.process_time()
        _, begun = timed(lambda: store.begin(state))
        while not store.written:
            time.sleep(0.01)
        _, finished = timed(store.finish)
        found.append((time.process_time() - start, begun + finished))
    return median(cpu for cpu, _ in found), median(wall for _, wall in found)

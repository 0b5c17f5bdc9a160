"""What runs inside Ray's workers. It imports no Prefect, which would cost each worker two seconds of its start."""

import os
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fm.cells import Cell, tightest
from fm.checkpoints import Saved, Store, kept
from fm.data import ShardedImages
from fm.drawing import is_conditional
from fm.errors import Diverged, UserError
from fm.facts import facts_of
from fm.files import atomic
from fm.footprint import fitting
from fm.leaving import told_to_leave
from fm.lineage import code_digest
from fm.mirror import LEAVE
from fm.pairing import stream_of
from fm.parallel import World
from fm.pixels import to_pixels
from fm.progress import GRID, Progress, Started
from fm.recipe import Recipe, load
from fm.records import Recorder, read
from fm.reference import examples
from fm.report.figures import image_grid
from fm.runs import working
from fm.training import train
from tasks import gauges


def training(config: dict[str, Any]) -> None:
    """One rank's training, until it is done or told to leave by SIGTERM or RUN/.ray/leave; rank 0 keeps records."""
    recipe, world = Recipe.parse(config["recipe"]), World.current()
    settings, dataset = recipe.training, ShardedImages(config["data"], "train", cache=os.environ.get("FM_CACHE"))
    device = "cuda" if torch.cuda.is_available() and config.get("gpus", True) else "cpu"
    build = partial(recipe.build, dataset.shape, len(dataset.classes) or None)
    model, objective = fitting(build, dataset.shape, settings, world.size, device)
    order = settings.order(dataset.sizes).fingerprint()  # found here too: other versions must not mean another order
    identity = recipe.training_values(), dataset.digest
    batches_from = stream_of(dataset, settings, world, is_conditional(model), device, recipe.super_resolution)
    speed = None
    if world.first and device == "cuda":
        gpu = torch.cuda.get_device_name()
        speed = gauges.Speed(recipe, dataset.shape, len(dataset.classes) or None, world.size, gpu)
    with working(config["run"], world.first, config.get("driver", "")) as run, told_to_leave(run / LEAVE) as stop:
        rest = settings.keep_every_images, settings.initial_weights
        store = Store(run, *identity, settings.keep, order, *rest)
        events = watched(train(model, objective, settings, batches_from, store, world, stop, device), run)
        if world.first:
            record(events, store, run, device, speed)
        else:
            for _ in events:
                pass


def watched(events: Iterator[Any], run: Path) -> Iterator[Any]:
    """The same events, each with a line in this rank's log; with every report the first rank of each machine records
    how busy that is as `system-<machine>`."""
    node = gauges.node()
    system = Recorder(run / "records", f"system-{node}") if node is not None else None
    gauges.machine()  # the first record is of the time from here: `Started` comes with the first step done
    for event in events:
        sys.stderr.write(f"{datetime.now():%F %T} {event}\n")  # Ray's print would say it twice
        if system and isinstance(event, Started):
            system.cut(event.images_seen)
        elif system and isinstance(event, Progress):
            system.write(event.images_seen, time.time(), **gauges.machine())
        yield event


def record(
    events: Iterator[Any], store: Store, run: Path, device: str = "cpu", speed: gauges.Speed | None = None
) -> None:
    """Keeps what a training tells: reports as `train`, each start as `starts`, and what ended it as `diverged`; and
    draws a grid at every checkpoint."""
    records = run / "records"
    reports, starts = Recorder(records), Recorder(records, "starts")
    damaged = reports.cut(store.images_seen)
    lost = f"; {damaged} damaged lines of its records are lost" if damaged else ""
    try:
        for event in events:
            if isinstance(event, Progress):
                measured = {"peak_memory_mib": _peak_memory_mib(device)} | (
                    speed.values(event.images_per_s) if speed else {}
                )
                reports.write(time=time.time(), **event.values() | measured)
            elif isinstance(event, Started):
                facts = {"threads": torch.get_num_threads(), "device": device, "code": code_digest()}
                starts.write(time=time.time(), **asdict(event) | facts | {"restored": event.restored + lost})
                for saved in kept(run)[-1:]:  # a start before this one may have ended between checkpoint and grid
                    draw_samples(run, saved, tightest(Recipe.load(run).evaluation), device)
            elif isinstance(event, Saved):
                draw_samples(run, event, tightest(Recipe.load(run).evaluation), device)
    except Diverged as error:
        last = {"checkpoint": store.images_seen, "indices": error.indices, "error": str(error)}
        Recorder(records, "diverged").write(error.images_seen, time.time(), **last)
        raise


def draw_samples(run: Path, saved: Saved, cell: Cell, device: str = "cpu") -> None:
    """RUN/samples/seen-N.png: 16 samples of the checkpoint's first average, from the same noise each time, by this
    solver; what they cost it is recorded as `solving`."""
    file = run / "samples" / f"seen-{saved.images_seen:012d}.png"
    told = any(row["images_seen"] == saved.images_seen for row in read(run / "records", after=-1, name="solving"))
    if saved.images_seen and not (file.exists() and told):
        try:
            flow = load(run, device, saved.weights)
            given = examples(flow, facts_of(run)["data"], GRID)
            drawn = flow.draw(GRID, seed=0, batch=GRID, low=given and given.low, **cell.options())
            with atomic(file) as out:
                out.write(image_grid(to_pixels(drawn.x).cpu(), columns=4))
            cost = {"solver": cell.solver, "tolerance": cell.tolerance, "nfe": drawn.nfe, "nfe_mean": drawn.nfe_mean}
            if not told:
                Recorder(run / "records", "solving").write(saved.images_seen, time.time(), **cost, samples=GRID)
        except (OSError, UserError, MemoryError, torch.OutOfMemoryError) as error:  # no picture is worth a training
            sys.stderr.write(f"no samples at {saved.images_seen:,} images seen: {error}\n")


def _peak_memory_mib(device: str) -> float:
    """Of this process: on its GPU, else its resident memory."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return resident / (2**20 if sys.platform == "darwin" else 2**10)

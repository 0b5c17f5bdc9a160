"""More workers: measured with two on two cores; on paper for 8, 64 and 512 GPUs, with the list of assumptions, and a
small simulation of stragglers, failures and checkpoints beside the formula.

`python -m tests.benchmarks scaling` prints the measured rows, `python -m tests.benchmarks.scaling` the paper's.
"""

import math
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from fm.checkpoints import Store
from fm.data import ShardedImages, open_source, write_shards
from fm.exchange import PIECE
from fm.models.cost import H100_FLOPS, UTILISATION, Cost, cost
from fm.pairing import stream_of
from fm.parallel import World
from fm.progress import Progress
from fm.recipe import Recipe
from fm.training import train
from tests.benchmarks.timing import Row

STEPS = 40

# --- Assumptions of the paper's rows; measured here is the first alone, on an H200.
FLOP_S = UTILISATION * H100_FLOPS  # of one H100 in bf16
COMPILED = 0.29 * H100_FLOPS  # the same with `training.compile`
NODE_GPUS = 8
NVLINK_B_S, NETWORK_B_S = 300e9, 40e9  # one way, of each GPU: inside a node, and its own 400 Gb/s link at 80 %
SPREAD = 0.02  # relative deviation of one GPU's step time: all wait for the slowest
FAILURES_NODE_DAY = 0.005  # of a node of eight
RESTART_S, SAVE_S = 120.0, 5.0  # until the first new step; what a checkpoint holds training up
PRESETS = ("imagenet32", "imagenet64", "imagenet128")


def scaling(folder: Path) -> Iterator[Row]:
    """Two workers of one thread against one, the same global batch, in turns."""
    recipe = Recipe.load("demo", ["training.max_seconds=none", f"training.total_images={64 * STEPS}"])
    write_shards(open_source("photos:?tiles=60"), folder / "data", recipe.data)
    rates: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(3):
        for size in rates:
            place = folder / f"{turn}-{size}"
            mp.start_processes(_rank, (size, recipe, folder / "data", place), size, start_method="spawn")
            rates[size].append(float(place.with_suffix(".rate").read_text()))
    one, two = (statistics.median(rates[size]) for size in rates)
    yield f"two workers, demo, batch 64: {two:.0f} images/s", f"twice one worker: {2 * one:.0f} images/s", two / one / 2


def _rank(rank: int, size: int, recipe: Recipe, data: Path, place: Path) -> None:
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{place}.meet", rank=rank, world_size=size)
    world, dataset = World.current(), ShardedImages(data, "train")
    model, objective = recipe.build(dataset.shape, None)
    stream = stream_of(dataset, recipe.training, world, conditional=False)
    marks: list[tuple[int, float]] = []
    for event in train(model, objective, recipe.training, stream, Store(place), world):
        if isinstance(event, Progress):
            marks.append((event.images_seen, time.monotonic()))
    if rank == 0:
        (first, start), (last, end) = marks[len(marks) // 4], marks[-1]
        place.with_suffix(".rate").write_text(str((last - first) / (end - start)))
    if size > 1:
        dist.destroy_process_group()


@dataclass(frozen=True)
class Step:
    """Seconds of one optimiser step: computing, and what of the exchange does not hide behind it."""

    compute_s: float
    exchange_s: float
    slowest_s: float  # what the slowest of all GPUs takes longer than the mean

    @property
    def seconds(self) -> float:
        return self.compute_s + self.exchange_s + self.slowest_s

    @property
    def efficiency(self) -> float:
        return self.compute_s / self.seconds


@cache
def network(preset: str) -> tuple[Cost, int]:
    """What the preset's network costs, and the global batch."""
    recipe = Recipe.load(preset)
    with torch.device("meta"):
        model, _ = recipe.build(recipe.data.shape, None)
    return cost(model, recipe.data.size), recipe.training.batch_images


def step(preset: str, gpus: int, kind: str, flop_s: float = FLOP_S) -> Step:
    """By the ring's formula: 2 (N - 1) / N of the gradients' bytes (fp32) through the slowest link.

    kind: "DDP", hidden behind the backward pass, two thirds of the computing, as far as it goes, but for the last piece
    (`fm.exchange`; DistributedDataParallel's buckets do the same); "FSDP", which moves weights twice and gradients
    once, hidden alike; "after", all at once when the backward pass is over.
    """
    counted, batch = network(preset)
    compute = counted.training_flops(batch) / gpus / flop_s
    link = NVLINK_B_S if gpus <= NODE_GPUS else NETWORK_B_S
    one = 2 * (gpus - 1) / gpus * 4 / link  # seconds for each number
    exchange = one * counted.parameters * (1.5 if kind == "FSDP" else 1.0)
    hidden = 0.0 if kind == "after" else 2 / 3 * compute
    slowest = compute * SPREAD * math.sqrt(2 * math.log(max(gpus, 2)))  # the expected largest of N normal deviations
    return Step(compute, max(one * PIECE, exchange - hidden), slowest)


def best_interval_s(gpus: int) -> float:
    """Young's formula: the time between checkpoints that loses least, sqrt(2 x cost x mean time between failures)."""
    return math.sqrt(2 * SAVE_S * failure_s(gpus))


def failure_s(gpus: int) -> float:
    return 86_400 / (FAILURES_NODE_DAY * math.ceil(gpus / NODE_GPUS))


def simulated(gpus: int, interval_s: float, days: float = 60.0, seed: int = 0) -> float:
    """The share of the time that goes into steps that last, with failures drawn one by one."""
    chance, mean = random.Random(seed), failure_s(gpus)
    clock, useful, since, next_failure = 0.0, 0.0, 0.0, chance.expovariate(1 / mean)
    while clock < 86_400 * days:
        end = clock + (interval_s - since)
        if end < next_failure:
            clock, useful, since = end + SAVE_S, useful + interval_s, 0.0
            continue
        clock, since = next_failure + RESTART_S, 0.0  # what was done since the checkpoint is done again
        next_failure = clock + chance.expovariate(1 / mean)
    return useful / clock


def simulated_step(gpus: int, draws: int = 2000, seed: int = 0) -> float:
    """The mean of the slowest of N step times, over the mean step time, with normal deviations drawn one by one."""
    chance = random.Random(seed)
    return statistics.mean(max(chance.gauss(1.0, SPREAD) for _ in range(gpus)) for _ in range(draws))


def main() -> None:
    print("| preset | GPUs | step s | efficiency | compiled | FSDP | exchange after the backward pass |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for preset in PRESETS:
        for gpus in (8, 64, 512):
            ours, compiled = step(preset, gpus, "DDP"), step(preset, gpus, "DDP", COMPILED)
            others = [compiled, step(preset, gpus, "FSDP"), step(preset, gpus, "after")]
            peers = " | ".join(f"{one.efficiency:.2f}" for one in others)
            print(f"| {preset} | {gpus} | {ours.seconds:.3f} | {ours.efficiency:.2f} | {peers} |")
    print("\n| GPUs | slowest / mean, formula | simulated | best interval, formula | simulated | time that lasts |")
    print("| --- | --- | --- | --- | --- | --- |")
    for gpus in (8, 64, 512):
        formula = 1 + SPREAD * math.sqrt(2 * math.log(gpus))
        tried = {minutes: simulated(gpus, 60.0 * minutes, days=2000) for minutes in (1, 2, 4, 8, 15, 30, 60, 120, 240)}
        best = max(tried, key=lambda minutes: tried[minutes])
        print(
            f"| {gpus} | {formula:.3f} | {simulated_step(gpus, 400):.3f} | {best_interval_s(gpus) / 60:.0f} min "
            f"| {best} min | {tried[best]:.2%} |"
        )


if __name__ == "__main__":
    main()

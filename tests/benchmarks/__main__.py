"""`make bench`: speeds as ratios in one run, against a named peer or limit; prints the rows of README.md beside it."""

import io
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image

from fm.data import Preparation, open_source, write_shards
from fm.flow import Flow
from fm.noise import draws, uniforms
from fm.recipe import Recipe
from tests.benchmarks.readers import mixing, readers, resuming


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """CPU seconds of the fastest of some repeats."""
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def packing(folder: Path) -> Iterator[tuple[str, str, float]]:
    """A prepared sample (decode, BOX, raw member, sha256, index) over decode + BOX alone."""
    source = open_source("photos:?tiles=100")
    items = source.items()

    def decode() -> None:
        for item in items:
            Image.open(io.BytesIO(source.read(item))).convert("RGB").resize((32, 32), Image.Resampling.BOX)

    def write() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            write_shards(source, out, Preparation(size=32))

    ours = seconds(write)
    yield f"shards written: {len(items) / ours:,.0f} images per CPU s", "decode + BOX alone", ours / seconds(decode)


def randomness() -> Iterator[tuple[str, str, float]]:
    """All draws of one training step by stream position, against torch.randn, and as a share of the step."""
    recipe = Recipe.load("demo")
    batch, shape = recipe.training.batch_images, recipe.data.shape
    at = torch.arange(batch)
    ours = seconds(lambda: (draws(0, "z", at, shape), uniforms(0, "u", at, shape), uniforms(0, "t", at, ())))
    bare = seconds(lambda: (torch.randn(batch, *shape), torch.rand(batch, *shape), torch.rand(batch)))
    model, objective = recipe.build(shape, None)
    x, t = torch.randn(batch, *shape), torch.rand(batch)
    step = seconds(lambda: objective.loss(model, x, t=t, z=x).sum().backward())
    yield (
        f"noise of a step by position: {1000 * ours:.1f} ms",
        f"torch.randn and rand {1000 * bare:.1f} ms",
        ours / bare,
    )
    yield "noise of a step by position", f"the demo network's step {1000 * step:.0f} ms", ours / step


def sampling() -> Iterator[tuple[str, str, float]]:
    """32 samples by midpoint at NFE 16, over 16 bare calls of the network."""
    recipe = Recipe.load("demo")
    model, objective = recipe.build(recipe.data.shape, None)
    flow = Flow(model, objective, recipe.data.shape)
    x, t = torch.randn(32, *recipe.data.shape), torch.full((32,), 0.5)

    def bare() -> None:
        with torch.no_grad():
            for _ in range(16):
                model(x, t)

    ours = seconds(lambda: flow.draw(32, method="midpoint", nfe=16, batch=32))
    yield f"32 samples, midpoint, NFE 16: {ours:.2f} s", "16 bare network calls", ours / seconds(bare)


def main() -> None:
    torch.set_num_threads(1)
    print(f"{platform.machine()}, one thread, Python {platform.python_version()}, torch {torch.__version__}\n")
    print("| ours | peer or limit | ours / peer |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for bench in (
            lambda: readers(Path(folder)),
            resuming,
            mixing,
            lambda: packing(Path(folder)),
            randomness,
            sampling,
        ):
            for ours, peer, ratio in bench():
                print(f"| {ours} | {peer} | {ratio:.3g} |", flush=True)


if __name__ == "__main__":
    main()

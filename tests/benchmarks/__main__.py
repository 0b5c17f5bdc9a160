"""`make bench`: speeds as ratios in one run, against a named peer or limit; prints the rows of README.md beside it."""

import io
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import torch
from PIL import Image

from fm.data import Preparation, ShardedImages, batches, open_source, write_shards
from fm.flow import Flow
from fm.noise import draws, uniforms
from fm.recipe import Recipe

BATCH = 256


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """CPU seconds of the fastest of some repeats."""
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def rate(stream: Iterator[object], images: int, repeats: int = 3) -> float:
    """Images per CPU second of a stream of batches, the first batch left out."""
    next(stream)
    return images / seconds(lambda: list(islice(stream, images // BATCH)), repeats)


def readers(folder: Path) -> Iterator[tuple[str, str, float]]:
    """Shuffled uint8 batches of 256 at 32 px, one process: ours raw and png, ImageFolder, webdataset."""
    import webdataset
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import PILToTensor

    source = open_source("photos:?tiles=400")
    data = {}
    for encoding in ("raw", "png"):
        write_shards(source, folder / encoding, Preparation(size=32, encoding=encoding))
        data[encoding] = ShardedImages(folder / encoding, "train")
    for i in range(len(data["png"])):
        pixels, label = data["png"][i]
        (folder / "files" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / "files" / str(label) / f"{i}.png")
    loader = DataLoader(ImageFolder(folder / "files", PILToTensor()), BATCH, shuffle=True, drop_last=True)
    tars = [str(t) for t in sorted((folder / "png" / "shards").glob("train-*.tar"))]
    streaming = webdataset.WebDataset(tars, shardshuffle=len(tars), seed=0).shuffle(1000)
    streaming = streaming.decode("rgb8").to_tuple("png", "cls")

    def endless(items: Callable[[], Iterator[object]]) -> Iterator[object]:
        while True:
            yield from items()

    found = {
        "raw": rate(batches(data["raw"], BATCH), 20 * BATCH),
        "png": rate(batches(data["png"], BATCH), 4 * BATCH),
        "ImageFolder + DataLoader": rate(endless(lambda: iter(loader)), 4 * BATCH),
        "webdataset": rate(endless(lambda: iter(streaming.batched(BATCH, partial=False))), 4 * BATCH),
    }
    for ours in ("raw", "png"):
        for peer in ("ImageFolder + DataLoader", "webdataset"):
            mine = f"batches, {ours}, 32 px: {found[ours]:,.0f} images per CPU s"
            yield mine, f"{peer} {found[peer]:,.0f}", found[ours] / found[peer]


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
        for bench in (lambda: readers(Path(folder)), lambda: packing(Path(folder)), randomness, sampling):
            for ours, peer, ratio in bench():
                print(f"| {ours} | {peer} | {ratio:.3g} |", flush=True)


if __name__ == "__main__":
    main()

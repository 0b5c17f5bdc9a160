"""Reading and packing images, against ImageFolder, webdataset and bare decoding."""

import io
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from PIL import Image

from fm.data import Preparation, ShardedImages, batches, open_source, write_shards
from tests.benchmarks.timing import Row, seconds

BATCH = 256


def rate(stream: Iterator[object], images: int, repeats: int = 3) -> float:
    """Images per CPU second of a stream of batches, the first batch left out."""
    next(stream)
    return images / seconds(lambda: list(islice(stream, images // BATCH)), repeats)


def readers(folder: Path) -> Iterator[Row]:
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


def packing(folder: Path) -> Iterator[Row]:
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

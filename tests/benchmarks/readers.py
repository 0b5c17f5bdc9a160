"""Readers and orders against their peers; one that is not installed is a row that says so (README.md has the command).

Shuffled batches of 256 uint8 images and labels, one process, no workers; each peer reads the layout it is made for.
"""

import importlib.util
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fm.data import Order, Preparation, ShardedImages, batches, open_source, order_of, write_shards
from tests.benchmarks.timing import Row

BATCH, ROUNDS = 256, 5
IMAGENET = [1000] * 1281 + [167]
FAR = 10**9
Stream = Iterator[Any]


def endless(items: Callable[[], Stream]) -> Stream:
    while True:
        yield from items()


def image_folder(data: ShardedImages, folder: Path) -> Stream:
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import PILToTensor

    for i in range(len(data)):
        pixels, label = data[i]
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / str(label) / f"{i}.png")
    loader = DataLoader(ImageFolder(folder, PILToTensor()), BATCH, shuffle=True, drop_last=True)
    return endless(lambda: iter(loader))


def webdataset(tars: list[str]) -> Stream:
    import webdataset

    stream = webdataset.WebDataset(tars, shardshuffle=len(tars), seed=0).shuffle(1000)
    batched = stream.decode("rgb8").to_tuple("png", "cls").batched(BATCH, partial=False)
    return endless(lambda: iter(batched))


def mosaicml_streaming(data: ShardedImages, folder: Path) -> Stream:
    from streaming import MDSWriter, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory
    from torch.utils.data import DataLoader

    clean_stale_shared_memory()
    height, width = data.shape[1:]
    with MDSWriter(out=str(folder), columns={"image": f"ndarray:uint8:{height},{width},3", "label": "int"}) as writer:
        for i in range(len(data)):
            writer.write({"image": data[i][0], "label": data[i][1]})
    dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH)
    loader = DataLoader(dataset, BATCH, drop_last=True)
    return endless(lambda: iter(loader))


def litdata(data: ShardedImages, folder: Path) -> Stream:
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming import Cache

    cache = Cache(str(folder), chunk_size=1000)
    for i in range(len(data)):
        cache[i] = {"image": data[i][0], "label": data[i][1]}
    cache.done()
    cache.merge()
    loader = StreamingDataLoader(StreamingDataset(str(folder), shuffle=True, drop_last=True), batch_size=BATCH)
    return endless(lambda: iter(loader))


def grain(data: ShardedImages, folder: Path) -> Stream:
    """Its ElasticIterator over a memory map."""
    import grain

    folder.mkdir()
    np.save(folder / "images.npy", data.gather(range(len(data))))
    images, labels = np.load(folder / "images.npy", mmap_mode="r"), data.labels

    class Source:
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"image": images[index], "label": labels[index]}

    shuffled = grain.MapDataset.source(Source()).seed(0).shuffle().repeat()
    inline = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    whole = grain.sharding.ShardOptions(0, 1)
    return iter(grain.experimental.ElasticIterator(shuffled, BATCH, whole, read_options=inline))


PEERS = {  # reader: the package it needs, and which of ours it is compared with
    "ImageFolder + DataLoader": ("torchvision", ("raw", "png")),
    "webdataset": ("webdataset", ("raw", "png")),
    "mosaicml-streaming": ("streaming", ("raw",)),
    "litdata": ("litdata", ("raw",)),
    "grain over a memory map": ("grain", ("raw",)),
}


def rate(stream: Stream, count: int) -> tuple[float, float]:
    """Images per CPU second and per second of the stream's batches, the best of some rounds; the first is left out."""
    next(stream)
    by_cpu = by_clock = 0.0
    for _ in range(ROUNDS):
        cpu, clock = time.process_time(), time.perf_counter()
        for _ in islice(stream, count):
            pass
        by_cpu = max(by_cpu, count * BATCH / (time.process_time() - cpu))
        by_clock = max(by_clock, count * BATCH / (time.perf_counter() - clock))
    getattr(stream, "close", lambda: None)()
    return by_cpu, by_clock


def readers(folder: Path) -> Iterator[Row]:
    """Ours, raw and PNG, at 32 and 64 px, against those that are installed."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for size in (32, 64):
        yield from _readers(folder / str(size), size)
    logging.disable(logging.NOTSET)


def _readers(folder: Path, size: int) -> Iterator[Row]:
    data = {}
    for encoding in ("raw", "png"):
        write_shards(open_source("photos:?tiles=400"), folder / encoding, Preparation(size=size, encoding=encoding))
        data[encoding] = ShardedImages(folder / encoding, "train")
    tars = [str(tar) for tar in sorted((folder / "png" / "shards").glob("train-*.tar"))]
    opened: dict[str, Callable[[], Stream]] = {
        "raw": lambda: batches(data["raw"], BATCH),
        "png": lambda: batches(data["png"], BATCH),
        "ImageFolder + DataLoader": lambda: image_folder(data["raw"], folder / "files"),
        "webdataset": lambda: webdataset(tars),
        "mosaicml-streaming": lambda: mosaicml_streaming(data["raw"], folder / "mds"),
        "litdata": lambda: litdata(data["raw"], folder / "litdata"),
        "grain over a memory map": lambda: grain(data["raw"], folder / "grain"),
    }
    there = [name for name in PEERS if importlib.util.find_spec(PEERS[name][0])]
    # One after another: some go on reading ahead, on threads of their own, while nobody asks.
    fast = ("raw", "grain over a memory map", "litdata")
    found = {name: rate(opened[name](), 200 if name in fast else 12) for name in ("raw", "png", *there)}
    for name, (_, compared) in PEERS.items():
        for mine in compared:
            ours = f"batches, {mine}, {size} px: {found[mine][0]:,.0f} images per CPU s, {found[mine][1]:,.0f} per s"
            if name in there:
                yield ours, f"{name} {found[name][0]:,.0f}, {found[name][1]:,.0f}", found[mine][0] / found[name][0]
            else:
                yield ours, f"{name} is not installed", float("nan")


def seconds(work: Callable[[], object]) -> float:
    """Of the clock, the fastest of some rounds."""
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def resuming() -> Iterator[Row]:
    """From nothing to the first batch's samples at position 10^9 of an ImageNet-size order."""
    length, positions = sum(IMAGENET), FAR + np.arange(BATCH)
    took = {
        order_of(IMAGENET, 0, window).name: seconds(lambda w=window: order_of(IMAGENET, 0, w).at(positions))
        for window in (None, 64, 256)
    }
    for name, ours in took.items():
        yield f"first batch at position 10^9 of {length:,}, {name}: {ours:.3f} s", "limit 0.3 s", ours / 0.3
    peers = {"numpy's permutation of that epoch, as EDM2's sampler": lambda: permuted(length)}
    if importlib.util.find_spec("grain"):
        peers |= {f"grain's ElasticIterator at {at:,}": lambda at=at: grain_at(length, at) for at in (10**6, FAR)}
    for name, work in peers.items():
        peer = seconds(work)
        yield f"first batch at position 10^9 of {length:,}, full", f"{name} {peer:.3f} s", took["full"] / peer


def permuted(length: int) -> np.ndarray:
    epoch, place = divmod(FAR, length)
    return np.random.RandomState(epoch).permutation(length)[place : place + BATCH]


def grain_at(length: int, position: int) -> None:
    import grain

    shuffled = grain.MapDataset.range(length).seed(0).shuffle().repeat()
    iterator = iter(grain.experimental.ElasticIterator(shuffled, BATCH, grain.sharding.ShardOptions(0, 1)))
    iterator.set_state({"global_next_index": position})
    next(iterator)


def elastic(folder: Path) -> Iterator[Row]:
    """The share of 50 global batches of 256 that hold the samples which one worker's hold, at 2, 3 and 7 workers."""
    write_shards(open_source("photos:?tiles=80"), folder / "elastic", Preparation(size=8, shard_images=100))
    data = ShardedImages(folder / "elastic", "train")
    length, worlds = len(data), (2, 3, 7)
    orders: dict[str, Callable[[int], list[set[int]]]] = {"ours": lambda world: _ours(data, world)}
    orders["EDM2's sampler and loop"] = lambda world: _strided(length, world)
    if importlib.util.find_spec("grain"):
        orders["grain's ElasticIterator"] = lambda world: _grain(length, world)
    found = {name: [_same(at, world) for world in worlds] for name, at in orders.items()}
    for name, shares in found.items():
        if name != "ours":
            for world, mine, theirs in zip(worlds, found["ours"], shares, strict=True):
                ours = f"global batches of {world} workers equal to those of one: {mine:.0%}"
                said = "refuses" if theirs is None else f"{theirs:.0%}"
                yield ours, f"{name}: {said}", mine / theirs if theirs else float("inf")


def _same(at: Callable[[int], list[set[int]]], world: int) -> float | None:
    try:
        return float(np.mean([here == due for here, due in zip(at(world), at(1), strict=True)]))
    except ValueError:
        return None


def _ours(data: ShardedImages, world: int) -> list[set[int]]:
    ranks = [batches(data, BATCH, rank, world) for rank in range(world)]
    return [{i for rank in ranks for i in next(rank).indices.tolist()} for _ in range(50)]


def _strided(length: int, world: int) -> list[set[int]]:
    """One endless order, of which rank r takes every world-th from the r-th on; the loop asserts that all are used."""
    if BATCH % world:
        raise ValueError(f"{BATCH} images cannot be shared by {world} workers")
    each, epochs = BATCH // world, 50 * BATCH // length + 2
    stream = np.concatenate([np.random.RandomState(epoch).permutation(length) for epoch in range(epochs)])
    return [set(stream[step * each * world : (step + 1) * each * world].tolist()) for step in range(50)]


def _grain(length: int, world: int) -> list[set[int]]:
    import grain

    data = grain.MapDataset.range(length).seed(0).shuffle().repeat()
    options = [grain.sharding.ShardOptions(rank, world) for rank in range(world)]
    ranks = [iter(grain.experimental.ElasticIterator(data, BATCH, option)) for option in options]
    return [{int(i) for rank in ranks for i in np.ravel(next(rank))} for _ in range(50)]


def mixing() -> Iterator[Row]:
    """Classes in a batch of 256 from 1,000 classes that lie sorted in ImageNet-size shards of 1,000."""
    import webdataset

    label = np.arange(sum(IMAGENET)) * 1000 // sum(IMAGENET)
    best = classes(order_of(IMAGENET, 0), label)
    for window in (1, 16, 64, 256, 1024):
        found = classes(order_of(IMAGENET, 0, window), label)
        yield f"classes in a batch of 256, blocks of {window}: {found:.1f}", f"full {best:.1f}", found / best
    shards = np.split(label, np.cumsum(IMAGENET)[:-1])
    shuffled = (int(y) for shard in np.random.default_rng(0).permutation(len(shards)) for y in shards[shard])
    stream = list(islice(webdataset.filters.shuffle(1000, seed=0)(shuffled), 200 * BATCH))
    found = np.mean([len(set(stream[i : i + BATCH])) for i in range(50 * BATCH, len(stream), BATCH)])
    yield f"classes in a batch of 256, full: {best:.1f}", f"webdataset, buffer of 1,000 {found:.1f}", best / found


def classes(order: Order, label: np.ndarray) -> float:
    """The mean over batches spread over four epochs."""
    starts = np.linspace(0, 4 * len(label), 60).astype(int)
    return float(np.mean([len(np.unique(label[order.at(start + np.arange(BATCH))])) for start in starts]))

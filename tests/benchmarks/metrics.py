"""Feature distances against the usual scripts: `python -m tests.benchmarks metrics` prints the rows."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fm.metrics import Features, FeatureStatistics, estimate, frechet_distance
from fm.metrics.resizing import pillow_bicubic
from fm.noise import draws, uniforms
from tests.benchmarks.timing import Row, in_turns

DIMENSIONS, SAMPLES, IMAGES, ROWS = 2048, 5000, 256, 50_000


def metrics(folder: Path) -> Iterator[Row]:
    yield from frechet()
    yield from memory()
    for size in (32, 64):
        yield from route(folder, size)


def frechet() -> Iterator[Row]:
    """Of two fits to samples whose deviations fall from 1 to 0.01, as those of a network's features do."""
    from scipy.linalg import sqrtm

    scale = torch.linspace(1, 0.01, DIMENSIONS)
    sets = [draws(seed, "rows", torch.arange(SAMPLES), (DIMENSIONS,)) * scale for seed in (1, 2)]
    (mean_1, cov_1), (mean_2, cov_2) = (FeatureStatistics.of(rows).mean_cov() for rows in sets)
    found = {}

    def ours() -> None:
        found["ours"] = frechet_distance(mean_1, cov_1, mean_2, cov_2)

    def peer() -> None:
        root = sqrtm(cov_1.numpy() @ cov_2.numpy()).real
        found["peer"] = float((mean_1 - mean_2).square().sum() + cov_1.trace() + cov_2.trace() - 2 * np.trace(root))

    mine, theirs = in_turns(ours, peer, repeats=2)
    apart = abs(found["ours"] / found["peer"] - 1)
    name = f"Frechet distance, {DIMENSIONS} dimensions: {mine:.2f} s, apart by {apart:.0e}"
    yield name, f"scipy's sqrtm (goal 0.167) {theirs:.1f} s", mine / theirs


def memory() -> Iterator[Row]:
    """What `fd` with its interval takes beside 50,000 rows and as many of the reference, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        grown, rows = alone.submit(_grown).result()
    yield (
        f"memory of `fd` of {ROWS:,} rows: {grown:.0f} MiB more",
        f"the rows of both sets: {rows:.0f} MiB",
        grown / rows,
    )


def _grown() -> tuple[float, float]:
    """MiB that the process grew by, and that the rows take."""
    torch.set_num_threads(1)
    sets = torch.randn(ROWS, DIMENSIONS), torch.randn(ROWS, DIMENSIONS)
    before = getrusage(RUSAGE_SELF).ru_maxrss
    estimate("fd", *sets)
    return (getrusage(RUSAGE_SELF).ru_maxrss - before) / 1024, sum(rows.nbytes for rows in sets) / 2**20


def route(folder: Path, size: int) -> Iterator[Row]:
    """From samples in memory to statistics, through a network that takes hardly any time: what is left is the route."""
    from cleanfid.fid import get_folder_features

    images = (uniforms(0, "images", torch.arange(IMAGES), (3, size, size)) * 256).to(torch.uint8)
    network = nn.Sequential(nn.AvgPool2d(64), nn.Flatten()).eval()
    features = Features("route", "", "", lambda x: network(pillow_bicubic(x, 299)))
    pngs = folder / f"pngs{size}"
    pngs.mkdir()

    def ours() -> None:
        FeatureStatistics.of(features(images)).mean_cov()

    def peer() -> None:
        for i, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
            Image.fromarray(image).save(pngs / f"{i}.png")
        found = get_folder_features(
            str(pngs), network, num_workers=0, batch_size=32, device=torch.device("cpu"), mode="clean", verbose=False
        )
        found.mean(0), np.cov(found, rowvar=False)

    def alone(batch: Tensor = torch.zeros(32, 3, 299, 299)) -> None:  # noqa: B008
        with torch.inference_mode():
            for _ in range(IMAGES // 32):
                network(batch)

    mine, theirs = in_turns(ours, peer, repeats=3)
    net, _ = in_turns(alone, alone, repeats=3)
    mine, theirs = ((1000 * (taken - net) / IMAGES) for taken in (mine, theirs))
    name = f"samples of {size} px to statistics: {mine:.2f} ms each without the network"
    yield name, f"clean-fid's folder route (goal 0.333) {theirs:.2f} ms", mine / theirs

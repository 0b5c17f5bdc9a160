"""Small sources on disk, and one prepared data set for the tests that only read."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fm.data import Preparation, open_source, write_shards


def noise(seed, width=24, height=20):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def png():
    """png(seed, width, height) -> bytes of a noise picture."""

    def make(seed, width=24, height=20):
        file = io.BytesIO()
        Image.fromarray(noise(seed, width, height)).save(file, "PNG")
        return file.getvalue()

    return make


@pytest.fixture
def noises():
    """noises(count, seed, side) -> that many square noise pictures, uint8 (side, side, 3)."""
    return lambda count, seed=0, side=8: [noise(1000 * seed + number, side, side) for number in range(count)]


@pytest.fixture
def folder(tmp_path, png):
    """60 pictures in three classes."""
    for number in range(60):
        path = tmp_path / "pictures" / "abc"[number % 3] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    return tmp_path / "pictures"


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """`photos:?tiles=24` at 16 px, raw, several shards."""
    root = tmp_path_factory.mktemp("photos")
    write_shards(open_source("photos:?tiles=24"), root, Preparation(size=16, shard_images=50))
    return root

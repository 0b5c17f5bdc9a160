"""Small sources on disk, and one prepared data set for the tests that only read."""

import io
import logging
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


@pytest.fixture(scope="session")
def s3():
    """An S3-compatible server with an empty bucket: its file system; `s3://bucket/...` leads there while it runs."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    patch = pytest.MonkeyPatch()
    patch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
    for name, value in (("ACCESS_KEY_ID", "any"), ("SECRET_ACCESS_KEY", "any"), ("DEFAULT_REGION", "us-east-1")):
        patch.setenv(f"AWS_{name}", value)
    import s3fs

    fs = s3fs.S3FileSystem()
    fs.mkdir("bucket")
    yield fs
    patch.undo()
    server.stop()

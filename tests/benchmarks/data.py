"""Packing images, against bare decoding."""

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from fm.data import Preparation, open_source, write_shards
from tests.benchmarks.timing import Row, seconds


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

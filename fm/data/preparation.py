"""How one picture becomes one sample: the settings of a prepared data set, and bytes in -> pixels out."""

import io
import math
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import Field, field_validator

from fm.data.decode import decode
from fm.data.resize import RESIZE
from fm.errors import member
from fm.settings import Settings


class Preparation(Settings):
    """What is done to every picture, and how the samples are laid into shards."""

    size: int = Field(32, ge=4, le=1024, title="Image size", description="Side of the images in pixels, 4 to 1024")
    method: str = Field(
        "box",
        title="Resize method",
        description="box, area, lanczos: the whole picture squeezed; center-crop: short side, then centre",
        json_schema_extra={"enum": [*RESIZE]},
    )
    exif: Literal["ignore", "apply"] = Field(
        "ignore", title="EXIF orientation", description="ignore: as stored, like the official sets; apply: upright"
    )
    alpha: Literal["drop", "white"] = Field(
        "drop", title="Transparency", description="drop: colours as stored, like the official sets; white: over white"
    )
    encoding: Literal["raw", "png"] = Field(
        "raw", title="Encoding", description="raw: pixels, fastest to read; png: smaller, decoded on every read"
    )
    holdout: float = Field(
        0.1,
        gt=0,
        lt=1,
        title="Held-out share",
        description="Share of images for the test split, between 0 and 1, where the source has no splits of its own",
    )
    shard_images: int = Field(
        1000, ge=1, le=1_000_000, title="Images per shard", description="Images in each tar, 1 to 1,000,000"
    )
    seed: int = Field(0, ge=0, title="Seed", description="Decides the order of samples in the shards, 0 or more")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every sample."""
        return 3, self.size, self.size

    @field_validator("method")
    @classmethod
    def _known(cls, method: str) -> str:
        member(method, RESIZE, "resize method")
        return method


def prepare(data: bytes, settings: Preparation) -> tuple[np.ndarray, tuple[int, int]]:
    """uint8 pixels (size, size, 3) of an image file, and the picture's own (width, height).

    Raises: Rejected.
    """
    picture = decode(data, settings.exif, settings.alpha)
    return np.asarray(RESIZE[settings.method](picture, settings.size)), picture.size


def encode(pixels: np.ndarray, encoding: str) -> tuple[bytes, int]:
    """The file of one sample, and where in it the payload starts: for raw the pixels behind the npy header."""
    if encoding == "raw":
        header = _npy_header(pixels.shape)
        return header + pixels.tobytes(), len(header)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue(), 0


@lru_cache
def _npy_header(shape: tuple[int, ...]) -> bytes:
    """What numpy writes before the values of a uint8 array; made once, for all samples of a data set are alike."""
    file = io.BytesIO()
    np.save(file, np.empty(shape, np.uint8), allow_pickle=False)
    return file.getvalue()[: -math.prod(shape)]

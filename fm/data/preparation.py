"""How one picture becomes one sample: the settings of a prepared data set, and bytes in -> pixels out."""

import io
from typing import Any, Literal

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
    accept_missing: bool = Field(
        False,
        title="Accept missing pictures",
        description="Finish a data set of known size (ImageNet, CIFAR-10) although some of its pictures cannot be read",
    )

    def identity(self) -> dict[str, Any]:
        """What decides the samples' bytes."""
        return self.model_dump(mode="json", exclude={"accept_missing"})

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
    file = io.BytesIO()
    if encoding == "raw":
        np.save(file, pixels, allow_pickle=False)
        return file.getvalue(), file.tell() - pixels.nbytes
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue(), 0

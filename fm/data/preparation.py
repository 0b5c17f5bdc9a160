"""How one picture becomes one sample: the settings of a prepared data set, and bytes in -> pixels out."""

import io
import math
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, ValidationInfo, field_validator

from fm.data.decode import decode_with_traits
from fm.data.resize import RESIZE, pair
from fm.errors import MachineError, member
from fm.settings import Settings

RAW_UP_TO = 64  # pixels of a side, where nothing else is asked
PNG_SHARE = 0.65  # of the raw pixels: photographs at 64 px
LABEL_BYTES, FACTS_BYTES = 8, 400
INDEX_BYTES = 200  # of one sample in ours, DALI's and Energon's


class Preparation(Settings):
    """What is done to every picture, and how the samples are laid into shards."""

    size: int = Field(32, ge=4, le=1024, title="Image size", description="Side of the images in pixels, 4 to 1024")
    low_size: int | None = Field(
        None,
        ge=4,
        le=1024,
        title="Low-resolution side",
        description="Of a second picture in each sample, for super-resolution, in pixels, 4 to 1024; empty: none",
    )
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
        default_factory=lambda known: "raw" if known.get("size", 0) <= RAW_UP_TO else "png",
        title="Encoding",
        description="raw: fastest to read; png: smaller, decoded on every read; empty: raw up to 64 px, png above",
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
        off = {"low_size"} if self.low_size is None else set()
        return self.model_dump(mode="json", exclude={"accept_missing", *off})

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every sample."""
        return 3, self.size, self.size

    @field_validator("method")
    @classmethod
    def _known(cls, method: str) -> str:
        member(method, RESIZE, "resize method")
        return method

    @field_validator("low_size")
    @classmethod
    def _smaller(cls, low: int | None, known: ValidationInfo) -> int | None:
        if low is not None and low >= known.data.get("size", low + 1):
            raise ValueError(f"must be smaller than the size, {known.data['size']}")
        return low


class Sample(NamedTuple):
    """uint8 pixels (size, size, 3); (low_size, low_size, 3) or None; the picture's own (width, height) and traits."""

    pixels: NDArray[np.uint8]
    low: NDArray[np.uint8] | None
    size: tuple[int, int]
    traits: frozenset[str]


def prepare(data: bytes, settings: Preparation) -> Sample:
    """The sample of an image file.

    Raises: Rejected; MachineError if there is not the memory for it, which is not the picture's fault.
    """
    try:
        return _sample(data, settings)
    except MemoryError:
        says = f"there is not the memory to decode and resize a picture of {len(data):,} bytes"
        raise MachineError(says, mend="give fewer workers, or a machine with more memory, and start again") from None


def _sample(data: bytes, settings: Preparation) -> Sample:
    picture, traits = decode_with_traits(data, settings.exif, settings.alpha)
    if settings.low_size is None:
        return Sample(_pixels(RESIZE[settings.method](picture, settings.size)), None, picture.size, traits)
    large, low = pair(picture, settings.method, settings.size, settings.low_size)
    return Sample(_pixels(large), _pixels(low), picture.size, traits)


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    """As `np.asarray`, which asks for more than the bytes."""
    return np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, 3)


def sample_bytes(settings: Preparation) -> int:
    """About what one sample takes on the disk: in its tar, where headers and contents come in blocks of 512, and in the
    indexes."""
    sides = [settings.size] if settings.low_size is None else [settings.size, settings.low_size]
    share = PNG_SHARE if settings.encoding == "png" else 1.0
    members = [128 + share * 3 * side**2 for side in sides] + [LABEL_BYTES, FACTS_BYTES]
    return sum(512 + 512 * math.ceil(member / 512) for member in members) + INDEX_BYTES


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

"""The small picture beside an image, as super-resolution uses it: enlarged to the image's size, on the network's scale.

Also the bicubic baseline, what no network is needed for; and the way back, as `fm.data` makes small pictures.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from fm.data.decode import REASONS, Rejected, decode
from fm.data.resize import box, center_crop
from fm.errors import SettingsError, UserError, ValueUserError
from fm.files import check_file
from fm.pixels import to_pixels, to_unit


def enlarged(low: Tensor, side: int) -> Tensor:
    """Small pictures uint8 (n, channels, s, s) -> float32 (n, channels, side, side) about [-1, 1), by bicubic
    interpolation (Keys 1981, a = -1/2, as Pillow's): the condition that SR3 puts on the network's channels (Saharia et
    al. 2021).

    Raises: ValueUserError for pictures that are not square, or not smaller.
    """
    if low.ndim != 4 or low.shape[2] != low.shape[3] or low.shape[3] >= side:
        raise ValueUserError(f"small pictures of shape {tuple(low.shape)} given where (n, channels, s, s), s < {side}")
    return interpolate(to_unit(low), (side, side), mode="bicubic", antialias=True)  # antialias: a = -1/2, not -3/4


def bicubic(low: Tensor, side: int) -> Tensor:
    """Small pictures uint8 (n, channels, s, s) enlarged by bicubic interpolation, uint8 (n, channels, side, side)."""
    return to_pixels(enlarged(low, side))


def shrunk(images: Tensor, side: int) -> Tensor:
    """Images uint8 (n, 3, height, width) brought down to uint8 (n, 3, side, side), each pixel a mean, as
    `fm.data.resize.pair` brings them down."""
    small = [np.asarray(box(Image.fromarray(one), side)) for one in images.permute(0, 2, 3, 1).cpu().numpy()]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2)


def small_picture(file: str | Path, side: int) -> Tensor:
    """The picture in a file as a small one, uint8 (3, side, side): around its centre, if it is no square of that size.

    Raises: UserError if there is no such picture, or it cannot be read.
    """
    check_file(Path(file))
    return small_of(Path(file).read_bytes(), side, str(file))


def small_of(data: bytes, side: int, where: str) -> Tensor:
    """As `small_picture`, of a file's bytes; `where` is what an error calls it."""
    try:
        picture = decode(data, "apply", "white")
        small = picture if picture.size == (side, side) else center_crop(picture, side)
    except Rejected as error:
        raise UserError(f"cannot be taken: {REASONS[error.reason]}", where, "give another picture") from None
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


def check_pairs(super_resolution: bool, low_size: int | None, objective: str, coupling: str) -> None:
    """Raises: SettingsError where a network is to be told small pictures that are not there, or that its objective or
    coupling does not suit."""
    if not super_resolution and objective == "regression":
        raise SettingsError("regression learns from small pictures alone", "objective", "set super_resolution=true")
    if not super_resolution:
        return
    if low_size is None:
        what = "super-resolution learns from pairs, and no small pictures are made"
        raise SettingsError(what, "data.low_size", "set it, and prepare the pictures with it (`--low-size`)")
    if coupling != "independent":
        what = f"{coupling} matches noise to images across small pictures, so that these tell of the noise"
        raise SettingsError(what, "training.coupling", "set it to independent")

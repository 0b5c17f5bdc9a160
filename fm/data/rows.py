"""Pictures as rows of 3 s s bytes, plane by plane, with a number each: as CIFAR and the downsampled ImageNet come."""

import io
import math
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fm.errors import DataError


def side_of(shape: tuple[int, ...], dtype: Any, where: str) -> int:
    """The side s of the pictures in an array of that shape and type.

    Raises: DataError if it is not uint8 (n, 3 s s).
    """
    side = math.isqrt(shape[1] // 3) if len(shape) == 2 else 0
    if dtype != np.uint8 or not side or shape[1] != 3 * side**2:
        raise DataError(f"its data are {dtype} {shape}, not uint8 (n, 3 s s)", where=where)
    return side


class NpyHeader(NamedTuple):
    """What the header of an `.npy` says of its array."""

    shape: tuple[int, ...]
    dtype: np.dtype
    columns_first: bool

    @property
    def bytes(self) -> int:
        """What the array takes behind the header."""
        return math.prod(self.shape) * self.dtype.itemsize


def npy_header(file: IO[bytes]) -> NpyHeader:
    """The header that begins here; the file stands behind it then.

    Raises: whatever numpy's parser meets in damaged bytes.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, columns_first, dtype = read(file)
    return NpyHeader(shape, dtype, columns_first and len(shape) > 1)


def numbers_of(labels: Any, count: int, where: str) -> list[int]:
    """The labels of that many pictures.

    Raises: DataError if they are not that many whole numbers.
    """
    try:
        array = np.asarray(labels)
    except ValueError:  # lists of several lengths
        array = np.empty(0)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise DataError(f"its labels are not {count:,} whole numbers", where=where)
    return array.tolist()


def picture(row: bytes | NDArray[np.uint8]) -> bytes:
    """The `.npy` of one row: uint8 (s, s, 3)."""
    planes = np.frombuffer(row, np.uint8)
    side = math.isqrt(len(planes) // 3)
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(planes.reshape(3, side, side).transpose(1, 2, 0)), allow_pickle=False)
    return file.getvalue()

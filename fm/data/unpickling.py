"""Pickles of old data sets, read without the power to run anything: plain values and numpy arrays, nothing else."""

import io
import pickle
from typing import Any

import numpy as np

from fm.errors import DataError


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in {encoding}")
    return text.encode(encoding)


_reconstruct = np.zeros(0).__reduce__()[0]  # numpy's own, wherever this version keeps it
ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("_codecs", "encode"): _encode,  # how Python 3 writes bytes for Python 2
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return ALLOWED[module, name]


def unpickle(data: bytes, where: str) -> dict[str, Any]:
    """The dictionary in a pickle of Python 2 or 3, its keys as text.

    Raises: DataError if it is damaged or holds anything but plain values and arrays.
    """
    try:
        value = _Unpickler(io.BytesIO(data), encoding="bytes").load()
        return {key.decode() if isinstance(key, bytes) else str(key): value[key] for key in value}
    except Exception as error:  # damaged bytes meet anything in pickle and numpy
        says = f"is not a pickle of plain arrays ({error or type(error).__name__})"
        raise DataError(says, where=where, mend="fetch it again from where it was published") from None

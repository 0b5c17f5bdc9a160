"""Files that can only be read whole, such as a compressed batch, unpacked once on each machine, so that any row can be
read alone.

They lie in this machine's cache folder (`FM_CACHE` moves it), and may be deleted.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from fm.data.addresses import node_cache
from fm.errors import DataError
from fm.files import atomic, in_turn
from fm.lineage import digest


def unpacked(path: str, unpack: Callable[[BinaryIO], None]) -> Path:
    """The file that `unpack` writes from the file at `path`: kept until that file changes.

    Raises: DataError if there is no room.
    """
    info = os.stat(path)
    folder = node_cache() / "unpacked"
    target = folder / digest(os.path.realpath(path), info.st_size, info.st_mtime_ns)
    if target.exists():
        return target
    try:
        with in_turn(folder):
            if not target.exists():
                with atomic(target) as file:
                    unpack(file)
    except OSError as error:
        says = f"cannot be unpacked into {folder} ({error.strerror})"
        raise DataError(says, where=path, mend="set FM_CACHE to a folder with room") from None
    return target

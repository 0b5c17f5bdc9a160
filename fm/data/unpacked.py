"""Files that can only be read whole, such as a compressed batch, unpacked once on each machine, so that any row can be
read alone.

They lie in a folder of the user's own below the system's temporary folder (`TMPDIR` moves it), and may be deleted.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from fm.errors import DataError
from fm.files import atomic, in_turn
from fm.lineage import digest


def unpacked(path: str, unpack: Callable[[BinaryIO], None]) -> Path:
    """The file that `unpack` writes from the file at `path`: kept until that file changes.

    Raises: DataError if there is no room.
    """
    info = os.stat(path)
    folder = _own_folder()
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
        raise DataError(says, where=path, mend="set TMPDIR to a folder with room") from None
    return target


def _own_folder() -> Path:
    folder = Path(tempfile.gettempdir(), f"fm-unpacked-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    info = folder.lstat()
    if not folder.is_dir() or folder.is_symlink() or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise DataError("is not a folder of your own", where=str(folder), mend="remove it or set TMPDIR")
    return folder

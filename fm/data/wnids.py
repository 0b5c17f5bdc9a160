"""Which class a number means: the lists that come with ImageNet, each in an order of its own, read as WordNet ids.

`ILSVRC2012_validation_ground_truth.txt` counts as `meta.mat` of the same development kit does; the downsampled batches
count as `map_clsloc.txt` does. Training archives and torchvision sort by WordNet id, which is the order kept here.
"""

import gzip
import io
import os
import tarfile
import zlib
from pathlib import Path
from typing import IO, Any

from fm.data.addresses import unsigned
from fm.data.anywhere import is_file, opened
from fm.errors import DataError, MachineError

DEVKIT = "ILSVRC2012_devkit_t12"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
META = "meta.mat"
CLSLOC = "map_clsloc.txt"
MAX_LIST_BYTES = 64 * 1024**2


def beside(folder: str) -> str | None:
    """The labels of the validation pictures as they are downloaded, if they lie in the folder (or address)."""
    names = (f"{DEVKIT}.tar.gz", f"{DEVKIT}/data/{TRUTH}", TRUTH)
    return next((path for name in names if _is_there(path := f"{folder}/{name}")), None)


def _is_there(path: str) -> bool:
    """Whether there is such a file to read: S3 refuses, where it may not list, what is not there."""
    try:
        return is_file(path)
    except MachineError:
        raise
    except DataError:
        return False


def validation_labels(path: str) -> list[str]:
    """The class of each validation picture, in the order of their names.

    path: the development kit, packed or not; or a list of one class a line: WordNet ids, or numbers beside a meta.mat.
    Or the address of a list, or of the packed kit.

    Raises: DataError if it is none of these.
    """
    files = _files(path)
    if TRUTH not in files:
        raise DataError(
            f"holds no {TRUTH}", where=unsigned(path), mend=f"give {DEVKIT}.tar.gz or a list of one class a line"
        )
    words = files[TRUTH].decode("utf-8", "replace").split()
    if not all(word.isdecimal() for word in words):
        return words
    if META not in files:
        raise DataError(f"has numbers, which need the {META} of the same kit", unsigned(path), mend="put it beside")
    numbers = _synsets(files[META], path)
    return [_named(numbers, int(word), path) for word in words]


def by_number(path: Path) -> dict[int, str]:
    """The classes of a `map_clsloc.txt`: lines of WordNet id, number, name.

    Raises: DataError if it is no such list.
    """
    try:
        lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
        return {int(line[1]): line[0] for line in lines}
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from None
    except (ValueError, IndexError):
        raise DataError("is not a list of `n02119789 1 kit_fox`", where=str(path)) from None


def _named(numbers: dict[int, str], number: int, path: str) -> str:
    if number not in numbers:
        raise DataError(f"class {number} is not in its {META}", where=unsigned(path))
    return numbers[number]


def _files(path: str) -> dict[str, bytes]:
    """The lists among the files of the kit, by their names; a single file is the list itself, a meta.mat beside it."""
    if os.path.isdir(path):
        return _lists(path, TRUTH, META) | _lists(f"{path}/data", TRUTH, META)
    if unsigned(path).endswith((".tar.gz", ".tgz", ".tar")):
        return _packed(path)
    return _lists(os.path.dirname(unsigned(path)), META) | {TRUTH: _content(path)}


def _lists(folder: str, *names: str) -> dict[str, bytes]:
    return {name: _content(path) for name in names if _is_there(path := os.path.join(folder, name))}


def _content(path: str) -> bytes:
    with opened(path) as file:
        return file.read(MAX_LIST_BYTES)


def _packed(path: str) -> dict[str, bytes]:
    found = {}
    with opened(path) as packed:
        try:
            with tarfile.open(fileobj=packed) as tar:
                for info in tar:
                    name = info.name.rpartition("/")[2]
                    if name in (TRUTH, META) and info.isreg() and info.size <= MAX_LIST_BYTES:
                        file: IO[bytes] | None = tar.extractfile(info)
                        found[name] = file.read() if file else b""
        except (EOFError, gzip.BadGzipFile, zlib.error, tarfile.TarError) as error:
            raise DataError(f"is not a whole archive ({error})", unsigned(path), mend="download it again") from None
    return found


def _synsets(data: bytes, path: str) -> dict[int, str]:
    from scipy.io import loadmat

    try:
        table: Any = loadmat(io.BytesIO(data), squeeze_me=True)["synsets"]
        return {int(n): str(wnid) for n, wnid in zip(table["ILSVRC2012_ID"], table["WNID"], strict=True)}
    except Exception as error:  # scipy's reader raises what it meets in damaged bytes
        raise DataError(f"{META} cannot be read ({type(error).__name__})", where=unsigned(path)) from None

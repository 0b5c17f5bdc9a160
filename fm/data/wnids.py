"""Which class a number means: the lists that come with ImageNet, each in an order of its own, read as WordNet ids.

`ILSVRC2012_validation_ground_truth.txt` counts as `meta.mat` of the same development kit does; the downsampled batches
count as `map_clsloc.txt` does. Training archives and torchvision sort by WordNet id, which is the order kept here.
"""

import io
import tarfile
from pathlib import Path
from typing import IO, Any

from fm.errors import DataError

DEVKIT = "ILSVRC2012_devkit_t12"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
META = "meta.mat"
CLSLOC = "map_clsloc.txt"
MAX_LIST_BYTES = 64 * 1024**2


def beside(folder: Path) -> Path | None:
    """The labels of the validation pictures as they are downloaded, if they lie in the folder."""
    return next((folder / name for name in (f"{DEVKIT}.tar.gz", DEVKIT, TRUTH) if (folder / name).exists()), None)


def validation_labels(path: Path) -> list[str]:
    """The class of each validation picture, in the order of their names.

    path: the development kit, packed or not; or a list of one class a line: WordNet ids, or numbers beside a meta.mat.

    Raises: DataError if it is none of these.
    """
    files = _files(path)
    if TRUTH not in files:
        raise DataError(
            f"holds no {TRUTH}", where=str(path), mend=f"give {DEVKIT}.tar.gz or a list of one class a line"
        )
    words = files[TRUTH].decode("utf-8", "replace").split()
    if not all(word.isdecimal() for word in words):
        return words
    if META not in files:
        raise DataError(f"has numbers, which need the {META} of the same kit", where=str(path), mend="put it beside")
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


def _named(numbers: dict[int, str], number: int, path: Path) -> str:
    if number not in numbers:
        raise DataError(f"class {number} is not in its {META}", where=str(path))
    return numbers[number]


def _files(path: Path) -> dict[str, bytes]:
    """The lists among the files of the kit, by their names; a single file is the list itself, a meta.mat beside it."""
    try:
        if path.is_dir():
            return {file.name: file.read_bytes() for folder in (path, path / "data") for file in _lists(folder)}
        if path.name.endswith((".tar.gz", ".tgz", ".tar")):
            return _packed(path)
        return {file.name: file.read_bytes() for file in _lists(path.parent)} | {TRUTH: path.read_bytes()}
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DataError(f"cannot be read ({error})", where=str(path)) from None


def _lists(folder: Path) -> list[Path]:
    return [folder / name for name in (TRUTH, META) if (folder / name).is_file()]


def _packed(path: Path) -> dict[str, bytes]:
    found = {}
    with tarfile.open(path) as tar:
        for info in tar:
            name = info.name.rpartition("/")[2]
            if name in (TRUTH, META) and info.isreg() and info.size <= MAX_LIST_BYTES:
                file: IO[bytes] | None = tar.extractfile(info)
                found[name] = file.read() if file else b""
    return found


def _synsets(data: bytes, path: Path) -> dict[int, str]:
    from scipy.io import loadmat

    try:
        table: Any = loadmat(io.BytesIO(data), squeeze_me=True)["synsets"]
        return {int(n): str(wnid) for n, wnid in zip(table["ILSVRC2012_ID"], table["WNID"], strict=True)}
    except Exception as error:  # scipy's reader raises what it meets in damaged bytes
        raise DataError(f"{META} cannot be read ({type(error).__name__})", where=str(path)) from None

import importlib.util

import fsspec
import pytest

from fm.data.addresses import PIECE_BYTES, is_address, read_pieces
from fm.errors import DataError


def test_addresses_are_told_from_folders(tmp_path):
    assert is_address("s3://bucket/data") and is_address("memory://data") and is_address(f"file://{tmp_path}")
    assert not is_address(tmp_path) and not is_address("data/photos-32") and not is_address("photos:?tiles=4")


def test_files_come_in_pieces(tmp_path):
    data = bytes(range(256)) * (PIECE_BYTES // 256) + b"rest"
    with fsspec.open("memory://some/file", "wb") as file:
        file.write(data)
    pieces = list(read_pieces("memory://some/file"))
    assert [len(piece) for piece in pieces] == [PIECE_BYTES, 4] and b"".join(pieces) == data


def test_bad_addresses_are_one_sentence():
    with pytest.raises(DataError, match=r"^memory://none: no such file$"):
        next(read_pieces("memory://none"))
    with pytest.raises(DataError, match=r"^ftq://x/y: cannot be read .ValueError: Protocol not known"):
        next(read_pieces("ftq://x/y"))
    if not importlib.util.find_spec("s3fs"):
        with pytest.raises(DataError, match=r"^s3://x/y: cannot be read \(Install s3fs"):
            next(read_pieces("s3://x/y"))

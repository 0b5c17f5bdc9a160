import http.server
import importlib.util
import threading
from functools import partial

import botocore.exceptions
import fsspec
import pytest

from fm.data import addresses
from fm.data.addresses import PIECE_BYTES, is_address, read_pieces
from fm.errors import DataError, MachineError


def test_addresses_are_told_from_folders(tmp_path):
    assert is_address("s3://bucket/data") and is_address("memory://data") and is_address(f"file://{tmp_path}")
    assert not is_address(tmp_path) and not is_address("data/photos-32") and not is_address("photos:?tiles=4")


def test_files_come_in_pieces(tmp_path):
    data = bytes(range(256)) * (PIECE_BYTES // 256) + b"rest"
    with fsspec.open("memory://some/file", "wb") as file:
        file.write(data)
    pieces = list(read_pieces("memory://some/file"))
    assert [len(piece) for piece in pieces] == [PIECE_BYTES, 4] and b"".join(pieces) == data


def test_a_read_that_fails_goes_on_where_it_was(monkeypatch):
    with fsspec.open("memory://some/file", "wb") as file:
        file.write(bytes(range(100)))
    memory, reads = type(fsspec.filesystem("memory").open("some/file")), []

    def away_every_second_time(file, size):
        reads.append(file.tell())
        if len(reads) % 2 == 0:
            raise ConnectionResetError("away")
        return real(file, size)

    real = memory.read
    monkeypatch.setattr(memory, "read", away_every_second_time)
    monkeypatch.setattr(addresses, "PIECE_BYTES", 40)
    monkeypatch.setattr(addresses, "PAUSES_S", (0, 0, 0))
    assert b"".join(read_pieces("memory://some/file")) == bytes(range(100))
    assert reads == [0, 40, 40, 80, 80, 100, 100]
    monkeypatch.setattr(addresses, "PAUSES_S", (0,))
    with pytest.raises(DataError, match=r"^memory://some/file: cannot be read .ConnectionResetError: away.$"):
        list(read_pieces("memory://some/file"))


def test_what_cannot_be_written_is_said_of_writing():
    def refused():
        raise PermissionError("Access Denied")

    with pytest.raises(
        DataError, match=r"^s3://b/x: is refused \(PermissionError: Access Denied\); give this machine"
    ) as e:
        addresses.patiently(refused, "s3://b/x?key=secret", "written")
    assert e.value.mend == "give this machine the right to write it, or sign it anew"


def test_a_machine_without_credentials_is_told_what_it_needs(monkeypatch):
    def unknown():
        raise botocore.exceptions.NoCredentialsError

    monkeypatch.setattr(addresses, "PAUSES_S", (0,))
    with pytest.raises(MachineError, match=r"NoCredentialsError: .*\); give this machine the right to write there$"):
        addresses.patiently(unknown, "s3://b/x", "written")


def test_a_server_that_is_away_is_told_from_a_file_that_is_not_there(tmp_path, monkeypatch):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    monkeypatch.setattr(addresses, "PAUSES_S", (0,))
    (tmp_path / "file").write_bytes(b"data")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert list(read_pieces(f"{address}/file")) == [b"data"]
        with pytest.raises(DataError, match=r"/none: no such file$"):
            list(read_pieces(f"{address}/none"))
        server.shutdown()
    with pytest.raises(DataError, match=r"/file: cannot be read \(Client[^\n]*Cannot connect[^\n]*$"):
        list(read_pieces(f"{address}/file"))


def test_bad_addresses_are_one_sentence():
    with pytest.raises(DataError, match=r"^memory://none: no such file$"):
        next(read_pieces("memory://none"))
    with pytest.raises(
        DataError, match=r"^ftpx://x/y: cannot be read \(fsspec knows no ftpx://\); did you mean 'ftp'\? known: .*s3"
    ):
        next(read_pieces("ftpx://x/y"))
    if not importlib.util.find_spec("s3fs"):
        with pytest.raises(DataError, match=r"^s3://x/y: cannot be read \(Install s3fs"):
            next(read_pieces("s3://x/y"))

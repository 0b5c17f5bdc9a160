import pytest

from fm.data.unpacked import unpacked
from fm.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FM_CACHE", str(tmp_path / "cache"))


def test_once_until_the_file_changes(tmp_path):
    source, calls = tmp_path / "x", []
    source.write_bytes(b"packed")

    def unpack(file):
        calls.append(file.write(b"whole"))

    first = unpacked(str(source), unpack)
    assert first.read_bytes() == b"whole" and unpacked(str(source), unpack) == first and len(calls) == 1
    source.write_bytes(b"packed anew")
    assert unpacked(str(source), unpack) != first and len(calls) == 2


def test_no_room_is_one_sentence_and_leaves_nothing(tmp_path):
    (tmp_path / "x").touch()

    def full(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match=r"x: cannot be unpacked into .* \(No space left on device\); set FM_CACHE"):
        unpacked(str(tmp_path / "x"), full)
    assert [path.name for path in (tmp_path / "cache" / "unpacked").iterdir()] == [".lock"]

import hashlib
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fm.data.ustar import UstarWriter, header


def written():
    file = io.BytesIO()
    tar = UstarWriter(file)
    starts = [tar.add("a.cls", b"1"), tar.add("b.bin", bytes(range(256)) * 4), tar.add("empty", b"")]
    return file, tar, starts, tar.close()


def test_standard_readers_read_it():
    file, tar, starts, _ = written()
    data = file.getvalue()
    with tarfile.open(fileobj=io.BytesIO(data)) as read:
        members = read.getmembers()
        assert [m.name for m in members] == ["a.cls", "b.bin", "empty"]
        assert [m.offset_data for m in members] == starts
        assert read.extractfile("b.bin").read() == bytes(range(256)) * 4
        assert {(m.mtime, m.uid, m.uname, m.mode) for m in members} == {(0, 0, "", 0o644)}
        assert not any(m.pax_headers for m in members)
    assert data[257:262] == b"ustar" and len(data) == tar.bytes and len(data) % 512 == 0


def test_the_hash_is_of_what_was_written_and_always_the_same():
    file, _, _, first = written()
    assert first == hashlib.sha256(file.getvalue()).hexdigest() == written()[3]


@given(st.from_regex(r"[a-zé0-9.-]{1,50}", fullmatch=True), st.integers(0, 8**11 - 1))
def test_a_header_is_the_standard_librarys(name, length):
    info = tarfile.TarInfo(name)
    info.size = length
    assert header(name, length) == info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")


@pytest.mark.parametrize(("name", "length"), [("a" * 101, 1), ("a", 8**11)])
def test_what_does_not_fit_into_a_header_is_refused(name, length):
    with pytest.raises(ValueError, match="does not fit into a ustar header"):
        header(name, length)

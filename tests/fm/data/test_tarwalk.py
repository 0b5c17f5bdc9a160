import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fm.data.tarwalk import Damaged, Member, _plain, walk

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def archive(members, format=tarfile.PAX_FORMAT):
    """members: name -> bytes, or -> a type of member without any."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes) and len(content) > 1:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content, "elsewhere"
                tar.addfile(info)
    return file.getvalue()


def found(data, start=0, end=None):
    return [
        (member.name, data[member.offset :][: member.length] if member.plain else None)
        for member in walk(io.BytesIO(data), start, len(data) if end is None else end)
    ]


@pytest.mark.parametrize("format", FORMATS)
def test_members_are_those_of_the_standard_library(format):
    long = "/".join(["folder" * 8] * 5) if format != tarfile.USTAR_FORMAT else "f/" * 60
    members = [("a.png", b"12"), ("d", tarfile.DIRTYPE), (f"{long}/é.png", b"34" * 300), ("ln", tarfile.SYMTYPE)]
    data = archive([*members, ("hard", tarfile.LNKTYPE), ("fifo", tarfile.FIFOTYPE), ("b.png", b"56" * 256)], format)
    due = [("a.png", b"12"), (f"{long}/é.png", b"34" * 300), ("ln", None), ("hard", None), ("fifo", None)]
    assert found(data) == [*due, ("b.png", b"56" * 256)]
    inside = archive([("inner.tar", data), ("more", b"78")])
    (inner, _) = walk(io.BytesIO(inside), 0, len(inside))
    assert found(inside, inner.offset, inner.offset + inner.length) == [*due, ("b.png", b"56" * 256)]


FIELDS = {"name": (0, 100), "length": (124, 136), "checksum": (148, 156), "type": (156, 157), "prefix": (345, 500)}


@given(st.sampled_from(sorted(FIELDS)), st.integers(0, 11), st.binary(min_size=1, max_size=12))
def test_a_header_is_read_as_the_standard_library_reads_it(name, skip, patch):
    """Also a damaged one, with a checksum that says it is sound."""
    block, (first, end) = bytearray(archive([("a.png", b"12")])[:512]), FIELDS[name]
    first = min(first + skip, end - 1)
    block[first:end] = (patch + bytes(block[first + len(patch) : end]))[: end - first]
    if name != "checksum":
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    ours = _plain(bytes(block))
    if ours:
        due = tarfile.TarInfo.frombuf(bytes(block), "utf-8", "surrogateescape")
        assert (ours.name, ours.size, ours.type) == (due.name, due.size, due.type)


def test_sparse_members_are_skipped_whole():
    info = tarfile.TarInfo("holes")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[482] = 1  # its map goes on in one more block
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data = bytes(header) + bytes(512) + b"x" * 512 + archive([("a", b"12")])
    assert found(data) == [("holes", None), ("a", b"12")]
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        info = tarfile.TarInfo("holes")
        info.pax_headers = {"GNU.sparse.major": "1"}
        tar.addfile(info)
    assert found(file.getvalue()) == [("holes", None)]


def test_damage_comes_after_what_is_whole():
    data = archive([("a.png", b"a" * 700), ("b.png", b"b" * 700), ("c.png", b"c" * 700)])
    cuts = [
        (700, "ends early at byte 700"),
        (1536, "ends early"),
        (2_000, "ends early"),
        (3072 + 600, "member c.png ends"),
    ]
    for length, says in [*cuts, (0, "ends early at byte 0")]:
        seen = []
        with pytest.raises(Damaged, match=says):
            for member in walk(io.BytesIO(data[:length]), 0, length):
                seen.append(member.name)
        assert seen == ["a.png", "b.png"][: length // 1536]
    spoilt = data[:1536] + b"?" + data[1537:]
    seen = []
    with pytest.raises(Damaged, match="bad checksum at byte 1,536"):
        for member in walk(io.BytesIO(spoilt), 0, len(spoilt)):
            seen.append(member)
    assert seen == [Member("a.png", 512, 700, True)]


def test_an_archive_of_nothing():
    assert found(bytes(10_240)) == []


@given(st.data())
def test_any_bytes_end_in_members_or_damage(data):
    whole = archive(
        [("a" * 150, b"12" * 400), ("ln", tarfile.SYMTYPE), ("b", b"34")], data.draw(st.sampled_from(FORMATS[1:]))
    )
    places = [0, 124, 136, 148, 156, 512, 1024, 1148, 1536, 1660, 1692]
    at = data.draw(st.sampled_from(places) | st.integers(0, 4000))
    patch = data.draw(st.binary(max_size=20))
    damaged = bytearray(whole[:at] + patch + whole[at + data.draw(st.integers(0, 20)) :])
    if data.draw(st.booleans()):  # with a checksum that says it is sound
        block = damaged[at // 512 * 512 :][:512]
        block[148:156] = b" " * 8
        damaged[at // 512 * 512 + 148 : at // 512 * 512 + 156] = b"%06o\0 " % sum(block)
    try:
        for member in walk(io.BytesIO(damaged), 0, len(damaged)):
            assert 0 <= member.offset <= member.offset + member.length <= len(damaged)
    except Damaged as error:
        assert "byte" in str(error)

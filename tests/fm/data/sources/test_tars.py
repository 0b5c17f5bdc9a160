import gzip
import io
import os
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fm.data import Preparation, ShardedImages, addresses, open_source, write_shards
from fm.data.decode import REASONS
from fm.data.sources import QUERY
from fm.errors import DataError, MachineError
from tests.fm.data.serving import served


def make(path, *members):
    """members: (name, bytes) or a TarInfo."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def link(name, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


def test_samples_of_plain_webdataset_tars(tmp_path, png):
    members = [("a/1.cls", b"7"), ("a/1.png", png(0)), ("a/1.txt", b"caption"), ("2.JPG", png(1)), ("2.cls", b"cat")]
    make(tmp_path / "x-0.tar", *members, ("3.png", png(2)), ("4.json", b"{}"), ("5.cls", b"-1"), ("5.png", png(3)))
    source = open_source(tmp_path / "x-0.tar")
    items = {item.key: item for item in source.items()}
    labels = {"x-0/a/1": "000007", "x-0/2": "cat", "x-0/3": None, "x-0/5": None}
    assert {key: item.label for key, item in items.items()} == labels
    assert source.read(items["x-0/2"]) == png(1)


def test_webdatasets_own_writer(tmp_path, png):
    import webdataset

    with webdataset.TarWriter(str(tmp_path / "w.tar")) as writer:
        writer.write({"__key__": "one", "png": png(4), "cls": 3})
    (item,) = open_source(tmp_path / "w.tar").items()
    assert item.key == "w/one" and item.label == "000003" and open_source(tmp_path / "w.tar").read(item) == png(4)


def test_folders_and_globs_and_splits(tmp_path, png):
    for name in ("train-0", "train-1", "val-0"):
        make(tmp_path / "in" / f"{name}.tar", (f"{name}.png", png(0)))
    found = {item.key: item.split for item in open_source(tmp_path / "in").items()}
    assert found == {"train-0/train-0": "train", "train-1/train-1": "train", "val-0/val-0": "test"}
    assert len(open_source(f"{tmp_path}/in/train-*.tar").items()) == 2
    make(tmp_path / "in" / "deep" / "train-0.tar", ("a.png", png(0)))
    assert len({item.key for item in open_source(f"{tmp_path}/in/**/*.tar").items()}) == 4


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_a_prepared_data_set_is_a_source(folder, tmp_path, encoding):
    """Prepared again at the same size it has the same images, labels, names and splits."""
    how = Preparation(size=8, encoding=encoding)
    write_shards(open_source(folder), tmp_path / "once", how)
    write_shards(open_source(tmp_path / "once"), tmp_path / "twice", how)
    for split in ("train", "test"):
        once, twice = (ShardedImages(tmp_path / name, split) for name in ("once", "twice"))
        assert once.classes == twice.classes == ["a", "b", "c"]
        pairs = [sorted((image.tobytes(), label) for image, label in data) for data in (once, twice)]
        assert pairs[0] == pairs[1]


def test_the_splits_of_a_prepared_data_set_are_kept(tmp_path, png):
    for number in range(6):
        path = tmp_path / "in" / ("train", "val", "test")[number % 3] / "a" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    once = write_shards(open_source(tmp_path / "in"), tmp_path / "once", Preparation(size=8))
    twice = write_shards(open_source(tmp_path / "once"), tmp_path / "twice", Preparation(size=8))
    for manifest in (once, twice):
        assert {name: split.images for name, split in manifest.splits.items()} == {"test": 2, "train": 2, "val": 2}


def test_a_damaged_manifest_is_said_and_a_foreign_one_is_passed_over(tmp_path, folder):
    write_shards(open_source(folder), tmp_path / "out", Preparation(size=8))
    path = tmp_path / "out" / "manifest.json"
    whole = path.read_text()
    for damaged in (whole[:-9], whole.replace('"classes"', '"klasses"')):
        path.write_text(damaged)
        with pytest.raises(DataError, match=r"manifest.json"):
            open_source(tmp_path / "out").items()
    for content in ('{"files": 3}', "[]"):
        path.write_text(content)
        assert open_source(tmp_path / "out").items().labels() == ["000000", "000001", "000002"]


def test_no_name_is_trusted_as_a_path(tmp_path, png):
    inside = tmp_path / "here" / "in"
    evil = [("../../evil.png", png(0)), ("/tmp/evil-fm-test.png", png(1)), (".png", png(2)), ("..", png(3))]
    make(inside / "x.tar", *evil, link("link.png", "/etc/passwd"), ("a\\..\\b.png", png(4)))
    before = set(tmp_path.rglob("*"))
    manifest = write_shards(open_source(inside), tmp_path / "here" / "out", Preparation(size=8))
    assert manifest.images == 2 and manifest.rejected == {"not-a-file": 1, "unsafe-name": 2}
    after = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(tmp_path / "here" / "out") for path in after)
    assert not os.path.exists("/tmp/evil-fm-test.png")


def test_a_repeated_name_is_rejected(tmp_path, png):
    make(tmp_path / "in" / "x.tar", ("a.png", png(0)), ("b.png", png(1)), ("a.png", png(2)), ("a.cls", b"1"))
    manifest = write_shards(open_source(tmp_path / "in"), tmp_path / "out", Preparation(size=8))
    assert manifest.images == 2 and manifest.rejected == {"duplicate": 1} and manifest.classes == ()


def test_a_name_repeated_within_a_sample_is_rejected(tmp_path, png):
    make(tmp_path / "x.tar", ("a.png", png(0)), ("a.cls", b"1"), ("a.png", png(1)), ("b.png", png(2)), ("b.jpg", b"?"))
    source = open_source(tmp_path / "x.tar")
    assert [(i.key, i.label, i.fault) for i in source.items()] == [
        ("x/a", "000001", ""),
        ("x/a", None, "duplicate"),
        ("x/b", None, ""),  # other pictures of a sample are its own affair
    ]
    assert source.read(source.items()[0]) == png(0)


def test_archives_that_are_none(tmp_path, png):
    whole = make(tmp_path / "whole.tar", ("a.png", png(0, 200, 200)), ("b.png", png(1, 200, 200))).read_bytes()
    for name, data in (("html", b"<html>404</html>" * 99), ("cut", whole[:-140_000]), ("empty", b""), ("short", b"x")):
        path = tmp_path / f"{name}.tar"
        path.write_bytes(data)
        with pytest.raises(DataError, match=rf"{name}.tar: is not a whole tar archive"):
            open_source(path).items()


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_tar_is_read_or_refused(tmp_path, png, data):
    """Whatever the bytes: samples, or one sentence."""
    whole = make(tmp_path / "whole.tar", ("a.png", png(0)), ("a.cls", b"1"), link("b.png", "a.png"), ("c.png", png(1)))
    content = whole.read_bytes()[:10_240]
    at = data.draw(st.integers(0, len(content) - 1) | st.sampled_from([0, 124, 136, 156, 257, 2_560, 2_716]))
    patch = data.draw(st.binary(min_size=1, max_size=20))
    (tmp_path / "damaged.tar").write_bytes(content[:at] + patch + content[at + data.draw(st.integers(0, 30)) :])
    source = open_source(tmp_path / "damaged.tar")
    try:
        items = source.items()
    except DataError as error:
        assert "damaged.tar: is not a whole tar archive" in str(error)
        return
    for item in items:
        assert item.fault in ("", *REASONS)
        if not item.fault:
            assert isinstance(source.read(item), bytes)


def test_tars_in_s3_are_the_same_data_set(tmp_path, png, s3):
    for number in range(3):
        members = [(f"{n}.{ending}", data) for n in range(4) for ending, data in (("png", png(n)), ("cls", b"cat"))]
        path = make(tmp_path / "in" / f"x-{number:03d}.tar", *members, link("l.png", "0.png"))
        s3.put(str(path), f"s3://bucket/in/{path.name}")
    here = write_shards(open_source(tmp_path / "in"), tmp_path / "here", Preparation(size=8))
    there = write_shards(open_source("s3://bucket/in"), tmp_path / "there", Preparation(size=8))
    assert here.digest == there.digest and here.images == 12 and here.rejected == {"not-a-file": 3}
    assert len(open_source("s3://bucket/in/x-{000..001}.tar").items()) == 10
    source = open_source("tars:s3://bucket/in/x-*.tar")
    (first, digest) = source.items()[0], source.digest()
    make(tmp_path / "cut.tar", ("a.png", png(0, 99, 99)))
    s3.pipe("s3://bucket/in/x-000.tar", (tmp_path / "cut.tar").read_bytes()[:9000])
    assert source.digest() != digest
    with pytest.raises(
        DataError, match=r"s3://bucket/in/x-000.tar: is not a whole tar archive \(member a.png ends early"
    ):
        source.items()
    s3.rm("s3://bucket/in/x-000.tar")
    with pytest.raises(DataError, match="no such file"):  # no picture of it is quietly left out
        source.read(first)


def test_a_damaged_header_in_the_middle_is_not_the_end(tmp_path, png):
    whole = make(tmp_path / "x.tar", ("a.png", png(0)), ("b.png", png(1))).read_bytes()
    second = whole.index(b"b.png")
    (tmp_path / "x.tar").write_bytes(whole[:second] + b"?" + whole[second + 1 :])
    with pytest.raises(DataError, match="bad checksum"):
        open_source(tmp_path / "x.tar").items()


@pytest.fixture
def three(tmp_path, png):
    """Folder of x-0.tar to x-2.tar, two labelled pictures each."""
    for number in range(3):
        pictures = [(f"{n}.png", png(2 * number + n)) for n in range(2)]
        labels = [(f"{n}.cls", str(n).encode()) for n in range(2)]
        make(tmp_path / "in" / f"x-{number}.tar", *sorted(pictures + labels))
    return tmp_path / "in"


@pytest.fixture
def brief(monkeypatch):
    """Three tries and no pauses between them."""
    monkeypatch.setattr(addresses, "PAUSES_S", (0, 0))


@pytest.mark.parametrize("pattern", ["/x-{0..2}.tar", "/x-*.tar", ""])
def test_a_tar_that_fails_for_a_moment_is_not_left_out(three, tmp_path, brief, pattern):
    here = write_shards(open_source(three), tmp_path / "here", Preparation(size=8))
    with served(three, {"x-1.tar": [503, 503], "": [503, 503]}) as root:
        there = write_shards(open_source(f"{root}{pattern}"), tmp_path / "there", Preparation(size=8))
    assert there.images == here.images == 6 and there.digest == here.digest


@pytest.mark.parametrize("pattern", ["/x-{0..2}.tar", "/x-1.tar", "/x-*.tar", ""])
def test_tars_that_cannot_be_reached_are_not_absent(three, brief, pattern):
    says = r"^http[^\n]*: cannot be read \([^\n]*503"
    with served(three, {"x-1.tar": [503] * 99, "": [503] * 99}) as root, pytest.raises(MachineError, match=says):
        open_source(f"{root}{pattern}")
    with pytest.raises(MachineError, match=r"^http[^\n]*: cannot be read \([^\n]*Cannot connect"):
        open_source(f"{root}{pattern}")


def test_each_number_of_a_pattern_is_there(three):
    (three / "x-1.tar").unlink()
    says = (
        r"x-1.tar: no such file, the first of 2 that are missing of 4; fetch them, or give the numbers that are there$"
    )
    with served(three) as root:
        for place in (three, f"tars:{three}", root):
            with pytest.raises(DataError, match=says):
                open_source(f"{place}/x-{{0..3}}.tar")


def test_a_manifest_that_cannot_be_read_now_is_not_absent(three, tmp_path, brief):
    write_shards(open_source(three), tmp_path / "out", Preparation(size=8))
    labels = open_source(tmp_path / "out").items().labels()
    with served(tmp_path / "out", {"manifest.json": [503]}) as root:
        assert open_source(f"{root}/shards/").items().labels() == labels
    says = r"manifest.json: cannot be read"
    with served(tmp_path / "out", {"manifest.json": [503] * 99}) as root, pytest.raises(MachineError, match=says):
        open_source(f"{root}/shards/").items()


@pytest.mark.parametrize("pattern", ["x-0.tar", "x-{0..2}.tar"])
def test_nothing_of_a_signature_is_written(three, tmp_path, pattern):
    """Nor does it decide anything: the same file, signed again, is the same source."""
    make(three / "x-2.tar", ("../evil.png", b"x"), ("text.png", b"no picture"))  # names of rejects are written too
    signed = "X-Goog-Credential=svc@proj.iam/2024/auto&X-Goog-Signature="
    plain = open_source(f"{three}/{pattern}")
    with served(three, key=signed) as root:
        source, again = (open_source(f"{root}/{pattern}?{signed}{secret}") for secret in ("SECRET", "other"))
        manifest = write_shards(source, tmp_path / "out", Preparation(size=8))
        assert source.digest() == again.digest() and source.items() == again.items()
        assert source.uri == f"{root}/{pattern}"
        keys = [item.key for item in source.items()]
    assert keys == [item.key for item in plain.items()] and manifest.images == 2 * len(plain.paths[:2])
    for path in (path for path in (tmp_path / "out").rglob("*") if path.is_file()):
        assert not any(part in path.read_bytes() for part in (b"SECRET", b"svc@proj", b"X-Goog")), path


def test_a_signature_comes_by_the_environment(three, monkeypatch):
    with served(three, key="sig=SECRET") as root:
        monkeypatch.setenv(QUERY, "sig=SECRET")
        source = open_source(f"{root}/x-0.tar")
        assert source.uri == f"{root}/x-0.tar" and source.items() and source.read(source.items()[0])


def test_no_message_shows_a_signature(three, brief):
    (three / "x-1.tar").write_text("<html>" * 999)
    with served(three, {"x-2.tar": [503] * 99}) as root:
        for name, says in [
            ("x-1.tar", "is not a whole tar"),
            ("x-2.tar", "503"),
            ("x-3.tar", "no tar files"),
            ("x-{3..4}.tar", "no such file"),
        ]:
            with pytest.raises(DataError, match=says) as raised:
                open_source(f"{root}/{name}?signature=SECRET").items()
            assert "SECRET" not in str(raised.value)


def test_splits_of_signed_tars(tmp_path, png):
    for name in ("train", "val"):
        make(tmp_path / f"{name}-0.tar", ("1.png", png(0)))
    with served(tmp_path) as root:
        for name, split in (("train", "train"), ("val", "test")):
            assert [item.split for item in open_source(f"{root}/{name}-0.tar?sig=a/b.c-d").items()] == [split]


def test_labels_sort_as_their_numbers(tmp_path, png):
    numbers = (7, 999, 9_999, 10_000, 20_000, 100_000, 999_999)
    members = [(f"{n}.{end}", data) for n in numbers for end, data in (("cls", str(n).encode()), ("png", png(0)))]
    make(tmp_path / "x.tar", *members, ("big.cls", b"1000000"), ("big.png", png(1)))
    items = list(open_source(tmp_path / "x.tar").found())
    labels = [item.label for item in items]
    assert labels[:-1] == sorted(labels[:-1]) == [f"{number:06d}" for number in numbers] and labels[-1] is None


def test_compressed_tars_are_to_be_unpacked(tmp_path, png, three):
    for name in ("x.tar.gz", "x.tgz"):
        (tmp_path / name).write_bytes(gzip.compress((three / "x-0.tar").read_bytes()))
    with served(tmp_path) as root:
        for place in (f"{tmp_path}/x.tar.gz", f"tars:{tmp_path}/x.tgz", f"{tmp_path}/*.tgz", f"{root}/x.tar.gz?sig=1"):
            with pytest.raises(DataError, match=r"x.(tar.gz|tgz): is compressed, and .*; unpack it to a .tar$"):
                open_source(place)
    with pytest.raises(DataError, match="no such file or folder"):
        open_source(f"{tmp_path}/none.tar.gz")


def test_the_picture_of_a_sample_is_the_one_without_an_inner_dot(tmp_path, png):
    sample = [
        ("k1.depth.png", png(0)),
        ("k1.seg.png", png(1)),
        ("k1.jpg", png(2)),
        ("k1.png", png(3)),
        ("k1.cls", b"a"),
    ]
    make(tmp_path / "x.tar", *sample, ("k2.seg.png", png(4)), ("k2.depth.png", png(5)))
    source = open_source(tmp_path / "x.tar")
    first, second = source.items()
    assert (first.key, first.label, source.read(first)) == ("x/k1", "a", png(2))
    assert second.key == "x/k2" and source.read(second) == png(4)

import pytest

from fm.data import addresses
from fm.data.anywhere import expand, find, is_file, opened, read_range, stamp
from fm.errors import DataError, MachineError
from tests.fm.data.serving import served


@pytest.fixture
def brief(monkeypatch):
    """Three tries and no pauses between them."""
    monkeypatch.setattr(addresses, "PAUSES_S", (0, 0))


def test_braces():
    assert expand("a{008..011}.tar") == ["a008.tar", "a009.tar", "a010.tar", "a011.tar"]
    assert expand("{0..1}{5..5}") == ["05", "15"] and expand("a{b}") == ["a{b}"]


@pytest.fixture(params=["path", "memory", "s3"])
def files(request, tmp_path):
    """Where a/x.bin (bytes 0 to 255), a/y.bin and b/z.bin lie."""
    content = {"a/x.bin": bytes(range(256)), "a/y.bin": b"y", "b/z.bin": b"z"}
    if request.param == "path":
        for name, data in content.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(data)
        return str(tmp_path)
    import fsspec

    root = "s3://bucket/files" if request.param == "s3" else "memory://files"
    fs = request.getfixturevalue("s3") if request.param == "s3" else fsspec.filesystem("memory")
    for name, data in content.items():
        fs.pipe(f"{root}/{name}", data)
    return root


def test_files_are_found_and_read_wherever_they_lie(files):
    root = find(f"{files}/a/x.bin")[0].removesuffix("/a/x.bin")
    assert find(f"{files}/a/*.bin") == [f"{root}/a/x.bin", f"{root}/a/y.bin"]
    assert find(f"{files}/**/*.bin")[-1] == f"{root}/b/z.bin"
    assert find(f"{files}/a") == find(f"{files}/none") == find(f"{files}/*.none") == []
    assert read_range(f"{root}/a/x.bin", 3, 4) == b"\3\4\5\6" and read_range(f"{root}/a/x.bin", 3, 0) == b""
    size, tag = stamp(f"{root}/a/x.bin")
    assert size == 256 and stamp(f"{root}/a/x.bin") == (size, tag)
    assert "memory" in files or tag != stamp(f"{root}/b/z.bin")[1]
    with opened(f"{root}/a/x.bin") as file:
        file.seek(250)
        assert file.read(3) == b"\xfa\xfb\xfc"
    with pytest.raises(DataError, match="changed while it was read"):
        read_range(f"{root}/a/x.bin", 250, 10)
    for attempt in (lambda path: stamp(path), lambda path: read_range(path, 0, 1)):
        with pytest.raises(DataError, match="none: no such file"):
            attempt(f"{root}/none")


def test_what_is_wrong_with_an_address_is_one_sentence(tmp_path, brief):
    (tmp_path / "x.bin").write_bytes(bytes(3_000_000))
    with served(tmp_path, ranges=False) as root:
        assert stamp(f"{root}/x.bin")[0] == 3_000_000
        with pytest.raises(DataError, match=r"x.bin: (cannot be read|changed)"):
            read_range(f"{root}/x.bin", 2_000_000, 10)
        with pytest.raises(DataError, match="no such file"), opened(f"{root}/none") as file:
            file.read()
    with pytest.raises(DataError, match=r"x.bin: cannot be read"):  # the server is away: nobody knows of the file
        stamp(f"{root}/x.bin")
    with pytest.raises(DataError, match=r"^ftpx://x: .*knows no ftpx://\); did you mean 'ftp'\? known: .*s3"):
        find("ftpx://x")


def questions(root):
    """All that can be asked of in/x.bin, whose bytes are 0 to 255, and the answers."""

    def last(path):
        with opened(path) as file:
            file.seek(250)
            return file.read()

    path = f"{root}/in/x.bin"
    return [
        (lambda: find(path), [path]),
        (lambda: is_file(path), True),
        (lambda: find(f"{root}/in/*.bin"), [path]),
        (lambda: find(f"{root}/**/*.bin"), [path]),
        (lambda: stamp(path)[0], 256),
        (lambda: read_range(path, 250, 3), b"\xfa\xfb\xfc"),
        (lambda: last(path), bytes(range(250, 256))),
    ]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.bin").write_bytes(bytes(range(256)))
    return tmp_path


@pytest.mark.parametrize("failure", [503, 429, "reset"])
def test_what_fails_for_a_moment_is_asked_again(folder, brief, failure):
    failing = {}
    with served(folder, failing) as root:
        for ask, answer in questions(root):
            failing |= {"x.bin": [failure] * 2, "in": [failure] * 2}
            assert ask() == answer and [] in failing.values()


def test_a_read_that_fails_goes_on_where_it_was(folder, brief):
    failing = {}
    with served(folder, failing) as root, opened(f"{root}/in/x.bin") as file:
        file.seek(100)
        failing["x.bin"] = [503, 503]
        assert file.read(50) == bytes(range(100, 150)) and failing["x.bin"] == []


def test_what_cannot_be_asked_is_not_absent(folder, brief):
    failing = {"x.bin": [503] * 999, "in": [503] * 999}
    with served(folder, failing) as root:
        for ask, _ in questions(root):
            with pytest.raises(MachineError, match=r"^http[^\n]*: cannot be read \([^\n]*503[^\n]*\)$"):
                ask()
        assert find(f"{root}/in/none") == find(f"{root}/none/*") == [] and not is_file(f"{root}/in/none")
    for ask, _ in questions(root):
        with pytest.raises(MachineError, match=r"^http[^\n]*: cannot be read \([^\n]*Cannot connect[^\n]*\)$"):
            ask()


def test_what_is_refused_is_said_at_once_and_without_the_signature(folder, monkeypatch):
    monkeypatch.setattr(addresses, "PAUSES_S", (999,))
    with served(folder, key="sig=good") as root:
        assert find(f"{root}/in/x.bin?sig=good") == [f"{root}/in/x.bin?sig=good"]
        for ask, _ in questions(root)[:2] + questions(root)[4:]:
            with pytest.raises(DataError, match=r"in/x.bin: is refused \([^\n]*403[^\n]*\); [^\n]*anew$") as raised:
                ask()
            assert not isinstance(raised.value, MachineError)
        with pytest.raises(DataError, match="403") as raised:
            stamp(f"{root}/in/x.bin?sig=SECRET&of=svc@proj")
        assert "SECRET" not in str(raised.value) and "svc" not in str(raised.value)


def test_the_same_patience_for_s3(s3, brief, monkeypatch):
    s3.pipe("s3://bucket/away/a/x.bin", b"x")
    s3.pipe("s3://bucket/away/x.bin", b"x")
    asked = []
    real = type(s3)._lsdir

    async def away_at_first(fs, path, *args, **kwargs):
        asked.append(path)
        if len(asked) % 2:
            raise OSError("reduce your request rate")
        return await real(fs, path, *args, **kwargs)

    monkeypatch.setattr(type(s3), "_lsdir", away_at_first)
    s3.invalidate_cache()
    assert find("s3://bucket/away/*.bin") == ["s3://bucket/away/x.bin"]
    assert len(asked) == 2


def test_our_own_errors_are_not_the_files(files):
    with pytest.raises(DataError, match=r"^ours$"), opened(f"{files}/a/x.bin"):
        raise DataError("ours")

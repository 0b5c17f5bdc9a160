import contextlib
import http.server
import threading

import pytest

from fm.data.anywhere import expand, find, opened, read_range, stamp
from fm.errors import DataError


@contextlib.contextmanager
def served(folder):
    """The folder at http://127.0.0.1, by a server that knows no ranges."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=folder)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


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


def test_what_is_wrong_with_an_address_is_one_sentence(tmp_path):
    (tmp_path / "x.bin").write_bytes(bytes(3_000_000))
    with served(tmp_path) as root:
        assert stamp(f"{root}/x.bin")[0] == 3_000_000
        with pytest.raises(DataError, match=r"x.bin: (cannot be read|changed)"):
            read_range(f"{root}/x.bin", 2_000_000, 10)
        with pytest.raises(DataError, match="no such file"), opened(f"{root}/none") as file:
            file.read()
    with pytest.raises(DataError, match=r"x.bin: cannot be read"):  # the server is away: nobody knows of the file
        stamp(f"{root}/x.bin")
    with pytest.raises(DataError, match="Protocol not known"):
        find("nowhere://x")


def test_our_own_errors_are_not_the_files(files):
    with pytest.raises(DataError, match=r"^ours$"), opened(f"{files}/a/x.bin"):
        raise DataError("ours")

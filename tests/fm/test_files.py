import errno
import hashlib
import mmap
import os
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest

from fm.errors import UserError
from fm.files import (
    alone,
    atomic,
    check_name,
    in_turn,
    mapped,
    patiently,
    read_json,
    sha256,
    writable_folder,
    write_json,
)


def test_a_file_that_was_not_finished_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic(tmp_path / "a") as file:
        file.write(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(RuntimeError), atomic(tmp_path / "a.json") as file:
        file.write(b"{")
        raise RuntimeError
    assert read_json(tmp_path / "a.json") == {"old": 1}


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 1_000_000)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 1_000_000).hexdigest()


def test_json_without_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert not (tmp_path / "a.json").exists()


def test_what_cannot_be_read_or_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"a\.json: cannot be read as JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(UserError, match="no such file"):
        read_json(tmp_path / "b.json")
    with pytest.raises(UserError, match="cannot make this folder"):
        writable_folder(tmp_path / "a.json" / "below")


def test_a_folder_is_for_one_at_a_time(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(UserError, match="another run is at work here"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass


def test_those_who_work_in_turn_wait_for_each_other(tmp_path: Path) -> None:
    entered: list[str] = []

    def second() -> None:
        with in_turn(tmp_path):
            entered.append("second")

    thread = Thread(target=second)
    with in_turn(tmp_path):
        thread.start()
        thread.join(0.2)
        assert entered == []
    thread.join(5)
    assert entered == ["second"]


def test_storage_that_comes_back_is_waited_for_and_what_stays_away_is_one_sentence(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("fm.files.PAUSES_S", (0.01, 0.01))
    failures = iter([True, True])

    def away_twice() -> str:
        if next(failures, False):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return "written"

    def away() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    assert patiently(away_twice, "it", tmp_path) == "written"
    with pytest.raises(UserError, match=r"it cannot be written \(Input/output error\); make room or mend the storage"):
        patiently(away, "it", tmp_path)


@pytest.mark.parametrize("name", ["photos", "a.b-c_1", "7", "x" * 80])
def test_a_name_that_is_one_everywhere(name):
    check_name(name, "a model")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says it")
def test_what_is_mapped_into_memory_is_seen_of_any_process(tmp_path: Path) -> None:
    one, other = tmp_path / "one file", tmp_path / "other"
    for file in (one, other):
        file.write_bytes(bytes(100))
    with open(one, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        assert mapped() & {one, other} == {one}
    code = (
        "import mmap, sys; f = open(sys.argv[1]); m = mmap.mmap(f.fileno(), 0, access=1); print(1, flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code, other], stdin=-1, stdout=-1) as process:
        assert process.stdout and process.stdout.readline()
        assert mapped() & {one, other} == {other}
        process.communicate(b"\n")
    assert mapped() & {one, other} == set()

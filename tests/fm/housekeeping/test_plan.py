"""Deletion: by another name first, finished by the next call, stopped by a link, and never more than was listed."""

import os
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest

from fm.checkpoints import damage, newest
from fm.errors import Unfinished
from fm.housekeeping import plan as planning
from fm.housekeeping.plan import GONE, Plan, Removal, carried_out, check, entries, files_in, size_of, touched
from fm.housekeeping.tidying import tidied


def killed_after(files: int, work) -> int:
    """The signal that ended a process which was killed when it had removed so many files of folders."""
    child = os.fork()
    if child == 0:
        real, count = os.unlink, [0]

        def unlink(*args, **options):
            count[0] += 1
            if count[0] > files:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*args, **options)

        os.unlink = unlink
        try:
            work()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("files", [0, 1, 6])
def test_killed_in_the_middle_nothing_is_half_there_and_the_next_call_finishes(run: Path, files: int) -> None:
    last = newest(run)
    assert killed_after(files, lambda: tidied(str(run), 1, delete=True)) == -signal.SIGKILL
    there = [path for path in (run / "checkpoints").iterdir() if path.name.isdigit()]
    assert 1 < len(there) < 10 and {damage(path) for path in there} == {""}
    (aside,) = [path for path in (run / "checkpoints").iterdir() if path.name.endswith(GONE)]
    listed = tidied(str(run), 1).plan
    assert "left by a deletion that was interrupted" in {one.why for one in listed.removals if one.path == aside}
    tidied(str(run), 1, delete=True)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["000000000640"]
    assert newest(run) == last


def test_one_that_was_interrupted_twice_is_no_obstacle(tmp_path: Path) -> None:
    for name in ("a", f".a{GONE}"):
        (tmp_path / name / "b").mkdir(parents=True)
    done = carried_out(Plan(tmp_path, (Removal(tmp_path / "a", 0, ""),), ()))
    assert [*tmp_path.iterdir()] == [] and len(done.removals) == 1


def test_a_folder_that_has_become_a_link_leads_nowhere(run: Path, tmp_path: Path) -> None:
    listed, outside = tidied(str(run), 1).plan, tmp_path / "outside"
    os.rename(run / "checkpoints", outside)
    (run / "checkpoints").symlink_to(outside)
    done = carried_out(listed)
    assert done.removals == () and len(done.failed) == 9 and len([*outside.iterdir()]) == 10
    with pytest.raises(Unfinished, match=r"cannot be deleted .*become a link.*, as 9 things in all"):
        check(done)
    check(listed)


def test_what_is_gone_or_in_use_by_then_is_no_failure(tmp_path: Path) -> None:
    @contextmanager
    def used():
        yield "somebody reads it"

    (tmp_path / "b").touch()
    removals = Removal(tmp_path / "a", 0, ""), Removal(tmp_path / "b", 0, "", guard=used)
    done = carried_out(Plan(tmp_path, removals, ()))
    assert [one.path.name for one in done.removals] == ["a"] and done.failed == ()
    assert [one.why for one in done.kept] == ["somebody reads it"] and (tmp_path / "b").exists()


def test_a_link_is_a_file_of_its_own_size(tmp_path: Path) -> None:
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "far" / "deep" / "big").write_bytes(bytes(1000))
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "far")
    assert files_in(tmp_path / "here") == [tmp_path / "here" / "link"]
    assert size_of(tmp_path / "here") < 1000 == size_of(tmp_path / "far")
    assert entries(tmp_path / "here" / "link") == [] and entries(tmp_path / "nowhere") == []


def test_use_is_reading_or_writing(tmp_path: Path) -> None:
    file = tmp_path / "a" / "file"
    file.parent.mkdir()
    file.touch()
    os.utime(file, (2000, 1000))
    assert (touched(file.parent), touched(file.parent, read=False)) == (2000, 1000)
    shutil.rmtree(file.parent)
    assert planning.PART.fullmatch(".x.7.part") and not planning.PART.fullmatch("x.part")

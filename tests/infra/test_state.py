import json
import os
import stat
import tempfile
import threading
import time
from pathlib import Path

import pytest

from fm.errors import SettingsError, UserError
from infra.processes import Started
from infra.state import LONGEST_SOCKET, Ports, Record, held, make_folders, short_folder, unlink_short_folder


def test_ports_move_together():
    assert Ports.from_base(None) == Ports()
    assert Ports.from_base(20000) == Ports(20000, 20001, 20002, 20003, 20004)
    for base in (80, 65532):
        with pytest.raises(SettingsError, match="--port-base"):
            Ports.from_base(base)


def test_the_record_is_what_was_saved(tmp_path):
    record = Record(tmp_path, Ports.from_base(20000), {"prefect": Started(7, 1.5)}, [Started(8, 2.5)], True)
    record.save()
    assert Record.load(tmp_path) == record
    assert Record.load(tmp_path / "none") == Record(tmp_path / "none")


def test_one_at_a_time_holds_the_record(tmp_path):
    inside, most = [0], []

    def hold():
        with held(tmp_path):
            inside[0] += 1
            most.append(inside[0])
            time.sleep(0.05)
            inside[0] -= 1

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]


def test_folders_are_private_and_the_token_stays(tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    make_folders(state)
    token = (state / "ray-token").read_text()
    make_folders(state)
    unlink_short_folder(state)
    assert (state / "ray-token").read_text() == token
    assert len(token) == 64
    assert stat.S_IMODE((state / "ray-token").stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert (state / "mlflow" / "artifacts").is_dir()


def test_a_short_path_is_its_own_name():
    assert short_folder(Path("/srv/.state")) == Path("/srv/.state")


def test_a_long_path_gets_a_short_link_that_goes_again(tmp_path):
    state = tmp_path / ("long" * 20)
    state.mkdir()
    make_folders(state)
    link = short_folder(state)
    assert link != state
    assert link.samefile(state)
    assert len(f"{link}{LONGEST_SOCKET}") <= 107
    unlink_short_folder(state)
    assert not link.is_symlink()


def test_a_link_that_someone_else_made_is_refused(tmp_path):
    state = tmp_path / ("long" * 20)
    state.mkdir()
    link = short_folder(state)
    link.symlink_to(tmp_path)
    try:
        with pytest.raises(UserError, match="cannot be linked") as raised:
            make_folders(state)
        assert str(link) in str(raised.value)
        unlink_short_folder(state)
        assert link.is_symlink(), "it is not ours to take away"
    finally:
        link.unlink()


def test_no_short_path_at_all_is_one_sentence(monkeypatch):
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/" + "t" * 60)
    monkeypatch.setattr("getpass.getuser", lambda: "u" * 60)
    with pytest.raises(UserError, match=r"^/x+: too long a path.*; put the project in a folder with a shorter path$"):
        short_folder(Path("/" + "x" * 90))


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_no_write_permission_is_one_sentence(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot make this folder"), held(tmp_path / "state"):
        pass


def test_a_torn_record_counts_as_none(tmp_path):
    (tmp_path / "services.json").write_text(json.dumps({"ports": {}})[:-3])
    assert Record.load(tmp_path) == Record(tmp_path)


def test_a_record_of_another_version_is_one_sentence(tmp_path):
    for change in ({"ports": {"prefect": 1, "socket": "new"}}, {"kept": None}):
        Record(tmp_path).save()
        saved = json.loads((tmp_path / "services.json").read_text()) | change
        if saved["kept"] is None:
            del saved["kept"]
        (tmp_path / "services.json").write_text(json.dumps(saved))
        with pytest.raises(UserError, match=r"written by another version of this code.*FM_STATE"):
            Record.load(tmp_path)

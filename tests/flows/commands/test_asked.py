import os
from pathlib import Path
from typing import Any

import pytest

from flows.commands.asked import existing, place
from fm.errors import SettingsError, UserError


def test_a_folder_without_a_training_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no training here \(it has no recipe.json\); train first"):
        existing(tmp_path)
    (tmp_path / "recipe.json").touch()
    assert existing(tmp_path) == tmp_path


def test_a_run_at_an_address_is_looked_for_there(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FM_CACHE", str(tmp_path))
    address = f"s3://bucket/{tmp_path.name}/run"
    with pytest.raises(UserError, match=rf"^{address}: no training here \(it has no recipe.json\); train first"):
        existing(address)
    s3.pipe_file(f"{address}/recipe.json", b"{}")
    assert (existing(address) / "recipe.json").read_text() == "{}"
    with pytest.raises(UserError, match=rf"^{address}: is signed, and a RUN is written to"):
        existing(f"{address}?X-Amz-Signature=secret")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_write_permission_is_one_line(services: Any, command: Any, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    done = command("pipeline", "photos:?tiles=20", "locked/run", "--preset", "tiny", cwd=tmp_path)
    assert done.returncode == 2
    assert "choose a folder you may write" in done.stderr


def test_the_longest_silence_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert place("", 1).silent_s == 3600
    monkeypatch.setenv("FM_SILENT_S", "20000")
    assert place("", 1).silent_s == 20000
    monkeypatch.setenv("FM_SILENT_S", "long")
    with pytest.raises(SettingsError, match='silent_s: "long" given, but input should be a valid number'):
        place("", 1)

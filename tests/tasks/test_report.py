from pathlib import Path

from fm.files import sha256
from fm.recipe import Recipe
from tasks.report import _stands, next_commands


def test_a_report_stands_while_inputs_and_files_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"picture")
    record = {"inputs": "i", "files": {"a.png": sha256(tmp_path / "a.png")}}
    assert _stands(record, "i", tmp_path)
    assert not _stands(record, "j", tmp_path)
    (tmp_path / "a.png").write_bytes(b"another")
    assert not _stands(record, "i", tmp_path)
    (tmp_path / "a.png").unlink()
    assert not _stands(record, "i", tmp_path)


def test_three_commands_to_go_on_with() -> None:
    commands = next_commands(Path("runs/demo"), Recipe.load("demo"))
    assert [command.split("fm ")[1].split()[0] for command, _ in commands] == ["sample", "up", "pipeline"]
    assert "runs/demo" in commands[0][0]

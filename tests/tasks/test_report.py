from pathlib import Path

from fm.files import sha256
from fm.recipe import Recipe
from tasks.report import _stands, finest, next_commands


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


def test_the_pictures_are_drawn_as_the_finest_row_of_the_table() -> None:
    assert str(finest(Recipe.load("demo"))) == "midpoint 16"
    adaptive = [{"solver": "dopri5", "tolerance": 1e-3, "samples": 20}]
    assert str(finest(Recipe.load("demo", {"evaluation.grid": adaptive}))) == "dopri5 0.001"

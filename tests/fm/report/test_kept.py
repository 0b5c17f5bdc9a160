from pathlib import Path

from fm.report.kept import keep, stands


def test_a_page_stands_until_its_inputs_or_a_file_change(tmp_path: Path):
    files = [tmp_path / "report.html", tmp_path / "report" / "a.png"]
    (tmp_path / "report").mkdir()
    for file in files:
        file.write_text("x")
    assert not stands(tmp_path, "inputs")
    keep(tmp_path, "inputs", files)
    assert stands(tmp_path, "inputs") and not stands(tmp_path, "other")
    files[1].write_text("y")
    assert not stands(tmp_path, "inputs")
    files[1].unlink()
    assert not stands(tmp_path, "inputs")

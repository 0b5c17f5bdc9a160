from pathlib import Path

from fm.data import Preparation
from tasks.prepare import folder_for


def test_the_folder_names_source_and_size_and_changes_with_the_settings(tmp_path: Path) -> None:
    first = folder_for("photos:", Preparation(size=32), tmp_path)
    assert first.parent == tmp_path / "data"
    assert first.name.startswith("photos-32-")
    assert first != folder_for("photos:", Preparation(size=32, seed=1), tmp_path)
    assert first != folder_for("photos:?tiles=9", Preparation(size=32), tmp_path)

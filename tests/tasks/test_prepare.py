from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fm.data import Preparation, write_shards
from fm.data.sources.photos import Photos
from tasks import cluster
from tasks.cluster import Outcome
from tasks.prepare import Pace, _unchanged, finished, folder_for, on_ray


def test_the_folder_names_source_and_size_and_changes_with_the_settings(tmp_path: Path) -> None:
    first = folder_for("photos:", Preparation(size=32), tmp_path)
    assert first.parent == tmp_path / "data"
    assert first.name.startswith("photos-32-")
    assert first != folder_for("photos:", Preparation(size=32, seed=1), tmp_path)
    assert first != folder_for("photos:?tiles=9", Preparation(size=32), tmp_path)


class Counting(Photos):
    """Counts how often its files are looked at."""

    looks = 0

    def digest(self) -> str:
        Counting.looks += 1
        return super().digest()


def test_the_source_is_not_looked_at_where_no_data_can_be_unchanged(tmp_path: Path) -> None:
    source, settings = Counting(uri="photos:", tiles=1), Preparation(size=8)
    assert _unchanged(source, tmp_path, settings) is None and Counting.looks == 0
    manifest = write_shards(source, tmp_path, settings)
    assert _unchanged(source, tmp_path, settings) == manifest and Counting.looks == 2
    assert _unchanged(source, tmp_path, Preparation(size=16)) is None


def test_progress_tells_what_is_left_by_the_last_minute() -> None:
    times = iter([30.0, 40.0, 101.0, 111.0])
    pace = Pace(lambda: next(times))
    assert pace.line(5000, 10_000) == "5,000 of 10,000 images"  # kept from an earlier run
    assert pace.line(6000, 10_000) == "6,000 of 10,000 images, 100 images/s, 40 s left"
    assert pace.line(7000, 10_000) == "7,000 of 10,000 images, 16 images/s, 3.05 min left"
    assert pace.line(10_000, 10_000) == "10,000 of 10,000 images, 56 images/s"


def test_prefect_shows_tens_of_tasks_for_thousands_of_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    names = []

    def outcomes(fn: Any, parts: Any, **options: Any) -> Iterator[Outcome]:
        return (Outcome(part, fn(part)) for part in parts)

    def named(task_run_name: str) -> Any:
        names.append(task_run_name)
        return finished.fn

    monkeypatch.setattr(cluster, "ray_map", outcomes)
    monkeypatch.setattr(finished, "with_options", named)
    assert list(on_ray(abs, range(-1282, 0))) == list(range(1282, 0, -1))
    assert len(names) == 20 and names[0] == "shards 1 to 65 of 1,282" and names[-1].endswith("to 1,282 of 1,282")
    names.clear()
    assert list(on_ray(abs, range(9))) == list(range(9)) and names == ["shards 1 to 9 of 9"]

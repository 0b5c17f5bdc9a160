from collections.abc import Iterator
from typing import Any

import pytest

from tasks import cluster
from tasks.cluster import Outcome
from tasks.prepare import Pace, finished, on_ray


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

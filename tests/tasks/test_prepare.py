import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from prefect import flow
from prefect.runtime import flow_run

from fm.data import open_source
from infra.services import ask
from tasks import cluster, watching
from tasks.cluster import Outcome
from tasks.place import Place
from tasks.prepare import Pace, finished, on_ray, say_unread


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


def test_pictures_of_a_format_that_is_not_read_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said: list[str] = []
    monkeypatch.setattr(watching, "say", said.append)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for name in ("b.HEIC", "c.heic", "notes.txt"):
        (tmp_path / name).touch()
    say_unread(open_source(tmp_path))
    assert said == ["prepare: 2 .heic pictures left out, for it is not read here: make JPEG of them"]


class Part(str):
    """A shard to write, by its name."""

    name = "shard 7"


def writes_oddly(part: Part) -> str:
    print(f"{part} is written oddly")
    return part


@flow(name="odd")
def odd(parts: list[str]) -> str:
    with cluster.session(Place()):
        list(on_ray(writes_oddly, [Part(part) for part in parts]))
    return str(flow_run.id)


def test_what_a_worker_prints_of_a_shard_stands_in_prefects_log(services: Any) -> None:
    run = odd(["it"])
    query, deadline = {"logs": {"flow_run_id": {"any_": [run]}}}, time.monotonic() + 60
    while not (lines := [line["message"] for line in ask(f"{services.prefect_api}/logs/filter", query)]) or not any(
        line == "shard 7: it is written oddly" for line in lines
    ):
        assert time.monotonic() < deadline, lines
        time.sleep(0.5)

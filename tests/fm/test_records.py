"""Rows survive a kill at any byte, and a resumed run leaves neither gap nor double."""

import json
import resource
from pathlib import Path

import pytest

from fm.errors import UserError
from fm.records import Recorder, read


def test_rows_come_back_in_order_and_after(tmp_path) -> None:
    recorder = Recorder(tmp_path)
    for seen in (10, 20, 30):
        recorder.write(seen, time=seen + 0.5, loss=1 / seen)
    assert read(tmp_path) == [{"images_seen": n, "time": n + 0.5, "loss": 1 / n} for n in (10, 20, 30)]
    assert [row["images_seen"] for row in read(tmp_path, after=10)] == [20, 30]


def test_nothing_recorded_yet(tmp_path) -> None:
    assert read(tmp_path) == []


def test_names_do_not_mix(tmp_path) -> None:
    Recorder(tmp_path).write(1, 0.0, loss=1.0)
    Recorder(tmp_path, "rank-1").write(2, 0.0, loss=2.0)
    assert [row["loss"] for row in read(tmp_path)] == [1.0]
    assert [row["loss"] for row in read(tmp_path, name="rank-1")] == [2.0]


def test_a_kill_at_any_byte_loses_at_most_the_last_row(tmp_path) -> None:
    recorder = Recorder(tmp_path)
    for seen in (10, 20):
        recorder.write(seen, 0.0, loss=0.5)
    whole = recorder.path.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(len(whole) + 1):
        recorder.path.write_bytes(whole[:length])
        kept = [row["images_seen"] for row in read(tmp_path)]
        assert kept == ([10, 20] if length == len(whole) else [10] if length >= first else [])
        Recorder(tmp_path).write(30, 0.0, loss=0.25)
        assert [row["images_seen"] for row in read(tmp_path)] == [*kept, 30]


def test_cut_drops_what_lies_past_the_checkpoint(tmp_path) -> None:
    recorder = Recorder(tmp_path)
    for seen in (10, 20, 30):
        recorder.write(seen, 0.0, loss=0.5)
    recorder.cut(20)
    recorder.write(30, 1.0, loss=0.4)
    assert [(row["images_seen"], row["time"]) for row in read(tmp_path)] == [(10, 0.0), (20, 0.0), (30, 1.0)]


def test_cut_before_the_first_row(tmp_path) -> None:
    Recorder(tmp_path).cut(0)
    assert read(tmp_path) == []


def test_what_json_cannot_say_is_refused_and_leaves_no_trace(tmp_path) -> None:
    recorder = Recorder(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        recorder.write(10, 0.0, loss=float("nan"))
    recorder.write(10, 0.0, loss=1.0)
    assert [json.loads(line)["loss"] for line in recorder.path.read_text().splitlines()] == [1.0]


def test_a_full_disk_tears_no_line_and_a_short_one_ends_nothing(tmp_path, monkeypatch) -> None:
    """The kernel writes what fits and says how much: the file may then grow to 100 bytes and no further."""
    monkeypatch.setattr("fm.files.PAUSES_S", (0.01,))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    recorder = Recorder(tmp_path)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        with pytest.raises(UserError, match=r"train.jsonl: a record cannot be written \(.*\); make room or mend"):
            for seen in range(10):
                recorder.write(seen, 0.0, loss=0.5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    kept = [row["images_seen"] for row in read(tmp_path, after=-1)]
    assert 0 < len(kept) < 10
    recorder.write(50, 0.0, loss=0.5)
    assert [row["images_seen"] for row in read(tmp_path, after=-1)] == [*kept, 50]


@pytest.mark.parametrize(
    "damage", [b'{"images_sen": 2, "time": 0}\n', b"\0\0\0\n", b"[1]\n", b'{"images_seen": "2"}\n']
)
def test_a_damaged_line_is_left_out_and_counted(tmp_path: Path, damage: bytes) -> None:
    recorder = Recorder(tmp_path)
    recorder.write(1, 0.0)
    with open(tmp_path / "train.jsonl", "ab") as file:
        file.write(damage)
    recorder = Recorder(tmp_path)
    recorder.write(3, 0.0)
    assert [row["images_seen"] for row in read(tmp_path)] == [1, 3]
    assert recorder.cut(2) == 1 and recorder.cut(2) == 0
    recorder.write(3, 0.0)
    assert [row["images_seen"] for row in read(tmp_path)] == [1, 3]

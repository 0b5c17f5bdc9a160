"""Which checkpoints stay: by place, the best, those that a registry names; what can no longer be read ends nothing."""

from pathlib import Path

import pytest

from fm.checkpoints import Store, load_weights, newest
from fm.errors import CheckpointError
from fm.files import write_json
from fm.keeping import NAMED, best_name, mark_best
from tests.fm.test_checkpoints import folders, saved_at, state


def test_every_so_many_images_one_is_kept_for_good(tmp_path) -> None:
    store = Store(tmp_path, keep=2, keep_every_images=50)
    for place in (20, 40, 60, 70, 90, 110, 130, 150, 170):
        store.save(state(place))
    assert [int(name) for name in folders(tmp_path)] == [60, 110, 150, 170]


def test_the_best_is_kept_until_a_better_one_by_the_same_measure(tmp_path) -> None:
    store = Store(tmp_path, keep=1)
    for place, value, best in ((10, 3.0, True), (20, 2.0, True), (30, 2.5, False), (40, 4.0, False)):
        assert mark_best(tmp_path, store.save(state(place)).path.name, value, "fd") is best
    assert folders(tmp_path) == ["000000000020", "000000000040", "best.json"]
    assert load_weights(tmp_path, "best")[1]["images_seen"] == 20
    assert load_weights(tmp_path)[1]["images_seen"] == newest(tmp_path).images_seen == 40
    assert mark_best(tmp_path, newest(tmp_path).path.name, 9.0, "another measure")
    assert load_weights(tmp_path, "best")[1]["images_seen"] == 40
    assert best_name(tmp_path) == "000000000040" and best_name(tmp_path / "none") == ""


@pytest.mark.parametrize("text", ["{", "{}", "[]", "null", '{"checkpoint": 5, "measure": "fd", "value": "x"}'])
def test_a_damaged_word_on_the_best_ends_nothing(tmp_path: Path, text: str) -> None:
    saved_at(tmp_path, 10)
    file = tmp_path / "checkpoints" / "best.json"
    file.write_text(text)
    saved = Store(tmp_path).save(state(20))
    with pytest.raises(CheckpointError, match="no best checkpoint; `fm evaluate RUN` names one"):
        load_weights(tmp_path, "best")
    assert mark_best(tmp_path, saved.path.name, 1.0, "fd") and load_weights(tmp_path, "best")[1]["images_seen"] == 20


def test_a_checkpoint_that_is_gone_is_not_the_best(tmp_path: Path) -> None:
    store = Store(tmp_path, keep=1)
    first = store.save(state(10))
    store.save(state(20))
    assert not mark_best(tmp_path, first.path.name, 1.0, "fd")


def test_what_a_registry_names_stays_and_a_note_that_nobody_can_read_keeps_all(tmp_path: Path) -> None:
    store = Store(tmp_path, "recipe", "data", keep=1)
    first = store.save(state(10))
    write_json(tmp_path / NAMED, {"weights": [{"weights": first.weights, "model": "m", "version": "1"}]})
    for place in (20, 30):
        store.save(state(place))
    assert folders(tmp_path) == [f"{place:012d}" for place in (10, 30)]
    (tmp_path / NAMED).write_text("{")
    store.save(state(40))
    assert folders(tmp_path) == [f"{place:012d}" for place in (10, 30, 40)]

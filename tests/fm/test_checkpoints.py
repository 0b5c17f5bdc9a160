"""Whole or absent, bound to its run, and falling back aloud."""

import errno
import json
import os

import pytest
import torch
from torch import nn

import fm.checkpoints
from fm.checkpoints import State, Store, load_weights, newest
from fm.ema import Ema
from fm.errors import CheckpointError
from fm.optimizer import Adam
from fm.parallel import ALONE, Gradients


def state(images_seen: int = 0, width: int = 2) -> State:
    model = nn.Conv2d(width, 3, 3).to(memory_format=torch.channels_last)
    adam = Adam(model, Gradients(model, ALONE, ()))
    for tensor in adam.tensors().values():
        tensor.fill_(images_seen + 0.5)
    return State(model, adam, Ema(model, 1.0, 0.1), images_seen, images_seen / 10, {"loss": 0.25, "steps": 2})


def saved_at(run, *places: int, keep: int = 3) -> list[State]:
    store = Store(run, "recipe", "data", keep)
    states = [state(place) for place in places]
    for one in states:
        store.save(one)
    return states


def folders(run) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def same(one: State, other: State) -> bool:
    pairs = [(one.tensors()[file], other.tensors()[file]) for file in one.tensors()]
    equal = all(torch.equal(a[name], b[name]) for a, b in pairs for name in a)
    return equal and one.numbers() == other.numbers()


def damage(run, place: int, file: str = "ema.safetensors") -> None:
    path = run / "checkpoints" / f"{place:012d}" / file
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


def test_what_is_saved_comes_back_to_the_bit(tmp_path) -> None:
    (old,) = saved_at(tmp_path, 128)
    new, store = state(), Store(tmp_path, "recipe", "data")
    assert not same(old, new)
    store.restore_newest_good(new)
    assert same(old, new)
    assert store.restored == "resumed at 128 images" and store.images_seen == 128
    assert new.model.weight.is_contiguous(memory_format=torch.channels_last)


def test_layout_on_disk(tmp_path) -> None:
    saved_at(tmp_path, 128)
    folder = tmp_path / "checkpoints" / "000000000128"
    assert sorted(p.name for p in folder.iterdir()) == [
        "ema.safetensors",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    info = json.loads((folder / "state.json").read_text())
    assert (info["recipe"], info["data"], info["images_seen"]) == ("recipe", "data", 128)
    assert info["sha256"]["ema"] == newest(tmp_path).weights


def test_an_empty_run_starts_at_zero(tmp_path) -> None:
    store = Store(tmp_path, "recipe", "data")
    store.restore_newest_good(state())
    assert store.restored == "started at 0 images" and store.images_seen == 0
    assert newest(tmp_path) is None
    with pytest.raises(CheckpointError, match="no whole checkpoint; train first"):
        load_weights(tmp_path)


def test_only_the_newest_are_kept(tmp_path) -> None:
    saved_at(tmp_path, 10, 20, 30, 40, keep=2)
    assert folders(tmp_path) == ["000000000030", "000000000040"]


STATES = ["{", "{}", "[]", "null", '{"format": "1", "images_seen": 20, "seconds": 1.0, "sha256": {}}']


@pytest.mark.parametrize("text", STATES)
def test_a_state_that_says_too_little_is_damage(tmp_path, text: str) -> None:
    saved_at(tmp_path, 10, 20)
    (tmp_path / "checkpoints" / "000000000020" / "state.json").write_text(text)
    assert newest(tmp_path).images_seen == 10
    assert load_weights(tmp_path)[1]["images_seen"] == 10


@pytest.mark.parametrize("file", ["model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_newest_falls_back_and_says_so(tmp_path, file: str) -> None:
    first, _ = saved_at(tmp_path, 10, 20)
    if file == "state.json":
        (tmp_path / "checkpoints" / "000000000020" / file).write_text("{")
    else:
        damage(tmp_path, 20, file)
    new, store = state(), Store(tmp_path, "recipe", "data")
    store.restore_newest_good(new)
    assert same(first, new)
    what = "cannot be read" if file == "state.json" else "is damaged"
    assert store.restored == f"resumed at 10 images (000000000020/{file} {what})"
    assert folders(tmp_path) == ["000000000010", "000000000020.damaged"]


def test_readers_fall_back_without_touching_the_run(tmp_path) -> None:
    first, _ = saved_at(tmp_path, 10, 20)
    damage(tmp_path, 20)
    weights, lineage = load_weights(tmp_path, "ema")
    assert lineage == {"weights": newest(tmp_path).weights, "images_seen": 10}
    assert all(torch.equal(weights[name], value) for name, value in first.ema.weights.items())
    assert folders(tmp_path) == ["000000000010", "000000000020"]


def test_all_damaged_is_an_error_and_not_a_new_start(tmp_path) -> None:
    saved_at(tmp_path, 10)
    damage(tmp_path, 10)
    with pytest.raises(CheckpointError, match=r"no checkpoint is whole \(000000000010/ema.safetensors is damaged\)"):
        Store(tmp_path, "recipe", "data").restore_newest_good(state())


def test_another_run_is_refused_by_name(tmp_path) -> None:
    saved_at(tmp_path, 10)
    with pytest.raises(CheckpointError, match=r"belongs to another run \(recipe recipe, not other\)"):
        Store(tmp_path, "other", "data").restore_newest_good(state())


def test_another_network_is_refused_by_the_first_keys_that_differ(tmp_path) -> None:
    saved_at(tmp_path, 10)
    other = state(width=5)
    before = other.model.weight.clone()
    with pytest.raises(CheckpointError, match=r"weight is \[3, 2, 3, 3\], not \[3, 5, 3, 3\]"):
        Store(tmp_path, "recipe", "data").restore_newest_good(other)
    assert torch.equal(before, other.model.weight)


def test_a_full_disk_leaves_the_older_checkpoint_and_no_rubbish(tmp_path, monkeypatch) -> None:
    first, *_ = saved_at(tmp_path, 10)

    def full(*_) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(fm.checkpoints, "PAUSES_S", (0.01,))
        patch.setattr(fm.checkpoints, "_write", full)
        with pytest.raises(CheckpointError, match=r"cannot be written \(No space left on device\)"):
            saved_at(tmp_path, 20)
    assert folders(tmp_path) == ["000000000010"]
    new = state()
    Store(tmp_path, "recipe", "data").restore_newest_good(new)
    assert same(first, new)


def test_a_kill_while_writing_leaves_nothing_that_counts(tmp_path) -> None:
    saved_at(tmp_path, 10)
    part = tmp_path / "checkpoints" / ".000000000020.1.part"
    part.mkdir()
    (part / "model.safetensors").write_bytes(b"torn")
    assert newest(tmp_path).images_seen == 10
    Store(tmp_path, "recipe", "data").restore_newest_good(state())
    assert folders(tmp_path) == ["000000000010"]


def test_storage_that_comes_back_in_time_ends_nothing(tmp_path, monkeypatch) -> None:
    write, failures = fm.checkpoints._write, iter([True, True])

    def away_twice(path, tensors) -> str:
        if next(failures, False):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return write(path, tensors)

    monkeypatch.setattr(fm.checkpoints, "PAUSES_S", (0.01, 0.01))
    monkeypatch.setattr(fm.checkpoints, "_write", away_twice)
    saved_at(tmp_path, 10)
    assert newest(tmp_path).images_seen == 10


def test_what_is_written_is_the_state_at_begin(tmp_path) -> None:
    one, store = state(10), Store(tmp_path, "recipe", "data")
    before = one.ema.weights["weight"].clone()
    store.begin(one)
    one.ema.weights["weight"].fill_(9.0)
    one.tally["loss"] = 99.0
    assert store.finish().images_seen == 10 and not store.written
    again = state()
    Store(tmp_path, "recipe", "data").restore_newest_good(again)
    assert torch.equal(again.ema.weights["weight"], before) and again.tally["loss"] == 0.25


def test_a_damaged_place_is_written_again(tmp_path) -> None:
    saved_at(tmp_path, 10, 20)
    for _ in range(2):
        damage(tmp_path, 20)
        one, store = state(), Store(tmp_path, "recipe", "data")
        store.restore_newest_good(one)
        one.images_seen = 20
        store.save(one)
        assert newest(tmp_path).images_seen == 20

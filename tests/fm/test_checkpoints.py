"""Whole or absent, bound to its run, and falling back aloud."""

import errno
import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fm.checkpoints
import fm.files
from fm.checkpoints import Store, kept, load_weights, newest
from fm.checkpoints import damage as damage_of
from fm.ema import averages
from fm.errors import CheckpointError
from fm.optimizer import Adam
from fm.parallel import ALONE, Gradients
from fm.state import State


def state(images_seen: int = 0, width: int = 2) -> State:
    model = nn.Conv2d(width, 3, 3).to(memory_format=torch.channels_last)
    adam = Adam(model, Gradients(model, ALONE, {}))
    for tensor in adam.tensors().values():
        tensor.fill_(images_seen + 0.5)
    tally = {"sums": [0.25, 2.0], "lowest": 0.5}
    return State(model, adam, averages(model, (1.0, 50.0), 0.1), images_seen, images_seen / 10, tally, 7)


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
        "ema_50kimg.safetensors",
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


@pytest.mark.parametrize("file", ["model.safetensors", "ema_50kimg.safetensors", "optimizer.safetensors", "state.json"])
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
    assert all(torch.equal(weights[name], value) for name, value in first.averages["ema"].weights.items())
    assert folders(tmp_path) == ["000000000010", "000000000020"]


def test_all_damaged_is_an_error_and_not_a_new_start(tmp_path) -> None:
    saved_at(tmp_path, 10)
    damage(tmp_path, 10)
    for _ in range(2):  # whoever starts again and again is refused again and again
        with pytest.raises(
            CheckpointError, match=r"no checkpoint is whole \(000000000010/ema.safetensors is damaged\)"
        ):
            Store(tmp_path, "recipe", "data").restore_newest_good(state())


def test_another_run_is_refused_by_name(tmp_path) -> None:
    saved_at(tmp_path, 10)
    with pytest.raises(CheckpointError, match=r"belongs to another run \(recipe recipe, now other; data data, now d\)"):
        Store(tmp_path, "other", "d").restore_newest_good(state())


def test_another_recipe_is_refused_by_the_keys_that_differ(tmp_path) -> None:
    recipe = {"path": {"kind": "ot"}, "training": {"seed": 0, "ema": [1.0, 50.0]}}
    Store(tmp_path, recipe, "data").save(state(10))
    Store(tmp_path, recipe, "data").restore_newest_good(state())
    other = recipe | {"training": {"seed": 1, "ema": [1.0, 50.0]}}
    with pytest.raises(CheckpointError, match=r"another run \(recipe.training.seed 0, now 1\); choose another RUN"):
        Store(tmp_path, other, "data").restore_newest_good(state())


def test_another_order_of_the_data_is_refused_by_its_fingerprint(tmp_path) -> None:
    Store(tmp_path, "recipe", "data", order="full 1956").save(state(10))
    with pytest.raises(CheckpointError, match=r"belongs to another run \(order full 1956, now blocks of 2 12d5\)"):
        Store(tmp_path, "recipe", "data", order="blocks of 2 12d5").restore_newest_good(state())


def test_another_network_is_refused_by_the_first_keys_that_differ(tmp_path) -> None:
    saved_at(tmp_path, 10)
    other = state(width=5)
    before = other.model.weight.clone()
    with pytest.raises(CheckpointError, match=r"weight is \[3, 2, 3, 3\], not \[3, 5, 3, 3\]"):
        Store(tmp_path, "recipe", "data").restore_newest_good(other)
    assert torch.equal(before, other.model.weight)


def test_other_averages_are_another_network(tmp_path) -> None:
    saved_at(tmp_path, 10)
    other = state()
    del other.averages["ema_50kimg"]
    with pytest.raises(CheckpointError, match=r"another network \(ema_50kimg is on one side only\)"):
        Store(tmp_path, "recipe", "data").restore_newest_good(other)


def test_weights_are_named_and_the_nearest_name_said(tmp_path) -> None:
    (one,) = saved_at(tmp_path, 10)
    weights, _ = load_weights(tmp_path, "ema_50kimg")
    assert torch.equal(weights["bias"], one.averages["ema_50kimg"].weights["bias"])
    with pytest.raises(CheckpointError, match="no weights 'ema_5kimg'; did you mean 'ema_50kimg'"):
        load_weights(tmp_path, "ema_5kimg")


def test_any_changed_byte_of_the_numbers_is_damage(tmp_path) -> None:
    saved_at(tmp_path, 10)
    file = tmp_path / "checkpoints" / "000000000010" / "state.json"
    whole, found = file.read_bytes(), json.loads(file.read_text())
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            same_values = json.loads(file.read_text()) == found
        except ValueError:
            same_values = False
        assert (newest(tmp_path) is not None) is same_values


def test_a_full_disk_leaves_the_older_checkpoint_and_no_rubbish(tmp_path, monkeypatch) -> None:
    """The kernel refuses what goes past 100 bytes of a file."""
    first, *_ = saved_at(tmp_path, 10)
    monkeypatch.setattr(fm.files, "PAUSES_S", (0.01,))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        with pytest.raises(CheckpointError, match=r"a checkpoint cannot be written \(.*File too large.*\); make room"):
            saved_at(tmp_path, 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
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

    monkeypatch.setattr(fm.files, "PAUSES_S", (0.01, 0.01))
    monkeypatch.setattr(fm.checkpoints, "_write", away_twice)
    saved_at(tmp_path, 10)
    assert newest(tmp_path).images_seen == 10


def test_what_is_written_is_the_state_at_begin(tmp_path) -> None:
    one, store = state(10), Store(tmp_path, "recipe", "data")
    before = one.averages["ema"].weights["weight"].clone()
    store.begin(one)
    one.averages["ema"].weights["weight"].fill_(9.0)
    one.tally["sums"][0] = 99.0
    assert store.finish().images_seen == 10 and not store.written
    again = state()
    Store(tmp_path, "recipe", "data").restore_newest_good(again)
    assert torch.equal(again.averages["ema"].weights["weight"], before) and again.tally["sums"][0] == 0.25


def test_a_damaged_place_is_written_again(tmp_path) -> None:
    saved_at(tmp_path, 10, 20)
    for _ in range(2):
        damage(tmp_path, 20)
        one, store = state(), Store(tmp_path, "recipe", "data")
        store.restore_newest_good(one)
        one.images_seen = 20
        store.save(one)
        assert newest(tmp_path).images_seen == 20


def test_a_checkpoint_that_is_there_is_saved_whatever_the_storage_says_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rename went through, but the disk did not answer; or the folder cannot be listed for a moment."""
    monkeypatch.setattr("fm.files.PAUSES_S", (0, 0))
    for name, place in (("sync_folder", 10), ("_newest_first", 20)):
        real, calls = getattr(fm.checkpoints, name), []

        def away(*arguments: Any, real: Any = real, calls: list = calls, last: bool = name == "sync_folder") -> Any:
            calls.append(1)
            if len(calls) == 1 + last:  # of the two syncs the one after the rename
                raise OSError(errno.EIO, "Input/output error")
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(fm.checkpoints, name, away)
            assert Store(tmp_path).save(state(place)).images_seen == place
    assert folders(tmp_path) == ["000000000010", "000000000020"] and newest(tmp_path).images_seen == 20


def test_any_kept_checkpoint_is_loaded_by_its_weights_hash(tmp_path) -> None:
    states = saved_at(tmp_path, 10, 20, 30)
    found = kept(tmp_path)
    assert [saved.images_seen for saved in found] == [10, 20, 30] and len({saved.weights for saved in found}) == 3
    weights, lineage = load_weights(tmp_path, found[1].weights)
    assert lineage == {"weights": found[1].weights, "images_seen": 20}
    assert all(torch.equal(weights[name], tensor) for name, tensor in states[1].tensors()["ema"].items())
    with pytest.raises(CheckpointError, match="no whole checkpoint of weights 0000000000000000; evaluate again"):
        load_weights(tmp_path, "0" * 64)
    damage(tmp_path, 20)
    with pytest.raises(CheckpointError, match=r"no whole checkpoint of weights .* is damaged"):
        load_weights(tmp_path, found[1].weights)


def test_what_is_wrong_with_a_checkpoint(tmp_path) -> None:
    saved_at(tmp_path, 10, 20, 30, 40)
    first, second, third, fourth = (tmp_path / "checkpoints" / f"{place:012d}" for place in (20, 30, 40, 50))
    damage(tmp_path, 30)
    (third / "state.json").write_text("{}")
    assert [damage_of(folder) for folder in (first, second, third, fourth)] == [
        "",
        "000000000030/ema.safetensors is damaged",
        "000000000040/state.json is damaged",
        "000000000050/state.json cannot be read",
    ]

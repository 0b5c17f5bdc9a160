"""What a training continues from, by file and name."""

from pathlib import Path

import pytest
import torch
from torch import nn

from fm.ema import averages
from fm.errors import CheckpointError
from fm.optimizer import Adam
from fm.parallel import ALONE, Gradients
from fm.state import State, copy_into, differing


def state(width: int = 2) -> State:
    model = nn.Linear(width, 3)
    return State(model, Adam(model, Gradients(model, ALONE, {})), averages(model, (1.0, 50.0), 0.1))


def test_tensors_are_live_and_numbers_come_back() -> None:
    one, other = state(), state()
    assert set(one.tensors()) == {"model", "ema", "ema_50kimg", "optimizer"} and one.whole(first=True) is one
    other.images_seen, other.tally = 64, {"lowest": 0.5}
    copy_into(one.tensors(), other.tensors(), Path("x"))
    one.set_numbers(other.numbers())
    assert torch.equal(one.model.weight, other.model.weight) and one.numbers() == other.numbers()  # type: ignore[arg-type]


def test_what_is_not_the_same_is_named_before_anything_is_copied() -> None:
    one, other = state(), state(4)
    before = {name: value.clone() for name, value in one.model.state_dict().items()}
    assert next(differing(one.tensors(), other.tensors())) == "weight is [3, 4], not [3, 2]"
    few = {file: tensors for file, tensors in one.tensors().items() if file != "ema_50kimg"}
    assert list(differing(one.tensors(), few)) == ["ema_50kimg is on one side only"]
    with pytest.raises(CheckpointError, match=r"x: is of another network \(weight is \[3, 4\], not \[3, 2\]"):
        copy_into(one.tensors(), other.tensors(), Path("x"))
    assert all(torch.equal(value, before[name]) for name, value in one.model.state_dict().items())

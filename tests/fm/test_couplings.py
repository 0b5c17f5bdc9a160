"""Couplings are permutations; minibatch OT is the best one, and keeps labels."""

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fm.couplings import COUPLINGS, Coupling, minibatch_ot
from fm.errors import ValueUserError
from tests.problems import randn

every_coupling = pytest.mark.parametrize("name", COUPLINGS)


@every_coupling
@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 24), seed=st.integers(0, 1000), labelled=st.booleans())
def test_every_noise_is_used_once(name: str, count: int, seed: int, labelled: bool) -> None:
    z, x_1 = randn(count, 3, seed=seed), randn(count, 3, seed=seed + 1)
    y = torch.arange(count) % 3 if labelled else None
    permutation = COUPLINGS[name](z, x_1, y)
    assert permutation.dtype == torch.int64
    assert permutation.sort().values.equal(torch.arange(count))
    if y is not None:
        assert y[permutation].equal(y)


def test_independent_keeps_the_order() -> None:
    assert COUPLINGS["independent"](randn(5, 2), randn(5, 2), None).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("seed", range(5))
def test_minibatch_ot_is_the_cheapest_permutation(seed: int) -> None:
    z, x_1 = randn(6, 2, 2, seed=seed), randn(6, 2, 2, seed=seed + 50)

    def cost(p: list[int]) -> float:
        return float((z[p] - x_1).square().sum())

    best = min(cost(list(p)) for p in permutations(range(6)))
    assert cost(minibatch_ot(z, x_1).tolist()) == pytest.approx(best)
    assert best < cost(list(range(6)))


def test_with_labels_it_is_the_cheapest_that_keeps_them() -> None:
    z, x_1, y = randn(6, 2), randn(6, 2, seed=1), torch.tensor([1, 0, 1, 0, 1, -1])
    kept = [list(p) for p in permutations(range(6)) if y[list(p)].equal(y)]
    best = min(kept, key=lambda p: float((z[p] - x_1).square().sum()))
    assert minibatch_ot(z, x_1, y).tolist() == best


def test_bad_input_is_named() -> None:
    z = randn(6, 2)
    for coupling in COUPLINGS.values():
        with pytest.raises(ValueUserError, match=r"noise of shape \(6, 2\)"):
            coupling(z, z[:5], None)
        with pytest.raises(ValueUserError, match=r"labels of shape \(5,\)"):
            coupling(z, z, torch.zeros(5))


@pytest.mark.parametrize("coupling", COUPLINGS.values(), ids=COUPLINGS)
def test_what_cannot_be_matched_is_said_with_its_sample(coupling: Coupling) -> None:
    x = torch.zeros(3, 2)
    x[1, 0] = math.nan
    with pytest.raises(ValueUserError, match="sample 1: images not finite"):
        coupling(torch.zeros(3, 2), x, None)
    with pytest.raises(ValueUserError, match=r"images of dtype torch\.uint8"):
        coupling(torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.uint8), None)

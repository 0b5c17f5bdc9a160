import pytest
import torch

from fm.metrics import pairs
from fm.metrics.pairs import across, inside
from fm.noise import draws

X, Y = (draws(seed, "rows", torch.arange(count), (4,)) for seed, count in ((1, 61), (2, 40)))


@pytest.fixture(params=[7, 64, 2048])
def tile(request, monkeypatch):
    monkeypatch.setattr(pairs, "TILE", request.param)


@pytest.mark.parametrize("groups", [1, 3, 10])
def test_sums_are_those_of_all_pairs_by_group_whatever_the_tile(tile, groups):
    member = torch.nn.functional.one_hot(torch.arange(len(X)) % groups, groups).double()
    whole = torch.cdist(X.double(), Y.double()) ** 2
    found = across(lambda a, b: torch.cdist(a, b) ** 2, X, Y, groups)
    assert torch.allclose(found, member.T @ whole.sum(1), rtol=1e-12)
    within = member.T @ (X.double() @ X.double().T) @ member
    assert torch.allclose(inside(lambda a, b: a @ b.T, X, groups), within, rtol=1e-9, atol=1e-9)


def test_a_tile_is_float64_and_rows_stay_as_they_are():
    seen = []
    across(lambda a, b: seen.append((a.dtype, len(a), len(b))) or a @ b.T, X.half(), Y.half())
    assert seen == [(torch.float64, 61, 40)]

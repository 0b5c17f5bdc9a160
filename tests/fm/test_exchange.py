"""Sums over real processes by gloo, sent during the backward pass and after it."""

import types
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from fm import exchange
from fm.exchange import Exchange
from fm.parallel import Gradients, World

SIZE = 3


class Net(nn.Module):
    """One layer is never used, another twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.unused, self.twice = nn.Linear(5, 6), nn.Linear(3, 3), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.twice(torch.tanh(self.twice(self.first(x))))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def backward(model: nn.Module, rank: int, part: int = 0) -> None:
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(10 * rank + part))
    model(x).square().sum().backward()


def local(rank: int, parts: int = 1) -> Tensor:
    model = net()
    for part in range(parts):
        backward(model, rank, part)
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in model.parameters()]
    )


def test_pieces_are_cut_from_the_end_and_cover_the_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "PIECE", 40)
    parameters = list(net().parameters())  # 30, 6, 9, 3, 36, 6
    found = Exchange(torch.zeros(90), parameters)
    assert found.pieces == [slice(48, 90), slice(0, 48)] and found._members == [2, 4]


def test_pieces_go_early_where_all_their_gradients_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []

    class Work:
        def wait(self) -> None: ...

    def all_reduce(piece: Tensor, async_op: bool) -> Any:
        sent.append(len(piece))
        return Work()

    monkeypatch.setattr(exchange, "PIECE", 30)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    model = net()
    gradients = Gradients(model, World(0, 2), {})
    assert gradients.exchange and [piece.stop - piece.start for piece in gradients.exchange.pieces] == [42, 48]
    backward(model, 0)
    assert sent == []  # not the last pass of the step
    gradients.exchange_early()
    backward(model, 0, 1)
    assert sent == [42]  # in the other there is what was not used
    gradients.exchange.finish()
    assert sent == [42, 48] and not gradients.exchange.broken_off()


def test_a_pass_that_fails_before_a_piece_has_gone_leaves_nothing_that_goes_too_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[int] = []

    def all_reduce(piece: Tensor, async_op: bool = False) -> Any:
        sent.append(len(piece))
        return types.SimpleNamespace(wait=lambda: None)

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    model = net()
    gradients = Gradients(model, World(0, 2), {})  # in one piece
    gradients.exchange_early()
    with pytest.raises(RuntimeError, match="out of memory"):
        fail_in_the_middle(partial(backward, model, 0), model.first)
    gradients.zero()
    backward(model, 0, 0)  # not the last pass of the new try
    assert sent == []
    gradients.exchange_early()
    backward(model, 0, 1)
    gradients.reduce()
    assert sent == [90, 1] and not gradients.spoiled


def rank_of(rank: int, meeting: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=SIZE)
    exchange.PIECE = 30
    model = net()
    gradients = Gradients(model, World.current(), {"loss": 1})
    due = sum(local(one, parts=2) for one in range(SIZE))

    def step(early: bool, fails: bool = False) -> Tensor:
        gradients.zero()
        backward(model, rank, 0)
        if early:
            gradients.exchange_early()
        if fails:
            with pytest.raises(RuntimeError, match="out of memory"):
                fail_in_the_middle(partial(backward, model, rank, 1), model.first)
            return step(early)  # as `fm.microbatch` tries again
        backward(model, rank, 1)
        gradients.signal("loss", 1.0)
        assert gradients.reduce() == {"loss": [SIZE]}
        return gradients.flat.clone()

    late = step(early=False)
    torch.testing.assert_close(late, due)
    for _ in range(3):
        assert torch.equal(step(early=True), late) and not gradients.spoiled  # to the last bit
    step(early=True, fails=rank == 1)
    assert gradients.spoiled  # on all ranks, who do it again
    assert torch.equal(step(early=False), late) and not gradients.spoiled
    assert torch.equal(step(early=True), late)
    dist.destroy_process_group()


def fail_in_the_middle(work: Any, layer: nn.Linear) -> None:
    """A backward pass that ends where it comes to this layer, with pieces of the others under way."""

    def fail(_: Tensor) -> None:
        raise RuntimeError("out of memory")

    hook = layer.weight.register_hook(fail)
    try:
        work()
    finally:
        hook.remove()


def test_sums_are_the_same_to_the_last_bit_early_or_late_and_after_a_failure(tmp_path: Any) -> None:
    mp.start_processes(rank_of, (str(tmp_path / "meet"),), SIZE, start_method="spawn")

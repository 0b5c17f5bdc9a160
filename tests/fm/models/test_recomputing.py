"""Blocks computed anew: nothing changes but the memory held between forward and backward."""

import pytest
import torch

from fm.models import MLP, UNet
from fm.models.dropout import dropout_at
from fm.models.recomputing import blocks, recompute_activations
from tests.fm.models.test_unet import SMALL, random_weights


def held(loss_of) -> int:
    """Bytes of what autograd keeps for the backward pass, parameters apart."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss_of()
    return sum(kept.values())


@pytest.mark.parametrize("bf16", [False, True])
def test_loss_and_gradients_stay_to_the_bit_dropout_included_and_less_is_held(bf16: bool) -> None:
    found, memory = [], []
    x, t, y = torch.randn(4, 3, 16, 16), torch.rand(4), torch.arange(4) % 3
    for anew in (False, True):
        net = random_weights(UNet(16, **SMALL, dropout=0.3, classes=3))
        names = [name for name, _ in net.named_parameters()]
        if anew:
            recompute_activations(net)
        assert [name for name, _ in net.named_parameters()] == names

        def loss_of(net=net) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                return net(x, t, y).square().mean()

        with dropout_at(net, 5, torch.arange(4)):
            loss = loss_of()
            loss.backward()
            found.append([loss.detach(), *(p.grad for p in net.parameters())])
            memory.append(held(loss_of))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert memory[1] < 0.5 * memory[0]


def test_a_network_without_stages_has_no_blocks() -> None:
    net = MLP(2, 16, 2)
    recompute_activations(net)
    assert blocks(net) == [] and net(torch.zeros(1, 2), torch.zeros(1)).shape == (1, 2)

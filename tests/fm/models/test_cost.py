"""Counts of parameters and operations, against counts by hand."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fm.models import MLP, UNet, blocks
from fm.models.cost import PEAK_FLOPS, Cost, cost, h100_hours
from fm.recipe import Recipe


def test_a_network_of_matrix_products_by_hand() -> None:
    net = MLP(3 * 4 * 4, width=8, depth=2)
    parameters = (49 * 8 + 8) + (8 * 8 + 8) + (8 * 48 + 48)
    assert cost(net, 4) == Cost(parameters, 2 * (49 * 8 + 8 * 8 + 8 * 48))


def by_hand(net: nn.Module, size: int) -> int:
    """Multiply-adds of every layer from the shapes that pass it in a real forward, and of attention's two products."""
    products = []

    def count(layer: nn.Module, _: object, out: torch.Tensor) -> None:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            products.append(out[0].numel() * layer.weight[0].numel())

    def attends(layer: nn.Module, inputs: tuple[torch.Tensor, ...], _: object) -> None:
        pixels = inputs[0].shape[2] * inputs[0].shape[3]
        products.append(pixels * (layer.qkv.weight.numel() + layer.proj_out.weight.numel()))
        products.append(2 * pixels**2 * inputs[0].shape[1])

    for layer in net.modules():
        layer.register_forward_hook(attends if hasattr(layer, "qkv") else count)
    net(torch.zeros(1, 3, size, size), torch.zeros(1))
    return 2 * sum(products)


def test_a_u_net_by_the_shapes_of_its_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "DOUBLED_PIXELS", 2**40)  # what a CPU saves is not counted
    net = UNet(16, 32, (1, 2), 1, (8,), 16, classes=4)
    found = cost(net, 16)
    assert found == Cost(sum(p.numel() for p in net.parameters()), by_hand(net, 16))


def test_weights_stay_where_they_are() -> None:
    with torch.device("meta"):
        published = UNet(32, 256, (1, 2, 2, 2), 3, (16, 8), 64)
    found = cost(published, 32)
    assert found.parameters / 1e6 == pytest.approx(228.15, abs=0.0051)
    net = MLP(3, 8, 1)
    before = [p.data_ptr() for p in net.parameters()]
    cost(net, 1)
    assert before == [p.data_ptr() for p in net.parameters()] and all(p.device.type == "cpu" for p in net.parameters())


def test_hours_of_a_card_are_flops_at_a_stated_utilisation() -> None:
    assert Cost(1, forward_flops=10).training_flops(images=4) == 120
    assert h100_hours(989e12 * 0.2 * 3600) == 1


def test_a_training_step_takes_three_forward_passes() -> None:
    """Backward twice as many products as forward, less those for the gradient of the images, which none needs."""
    with torch.device("meta"):
        net, x, t = UNet(32, 64, (1, 2), 2, (16,), 32), torch.empty(1, 3, 32, 32), torch.empty(())
        with FlopCounterMode(display=False) as counter:
            net(x, t).sum().backward()
    assert counter.get_total_flops() / cost(net, 32).forward_flops == pytest.approx(3, rel=0.01)


@pytest.mark.parametrize(
    ("name", "gflops", "hours"),
    [("cifar10", 56.1, 10.5), ("imagenet32", 73.1, 35.0), ("imagenet64", 219.3, 132.0), ("imagenet128", 798.1, 1148)],
)
def test_the_published_recipes_in_hours_at_45_percent_of_the_bf16_peak(name: str, gflops: float, hours: float) -> None:
    recipe = Recipe.load(name)
    with torch.device("meta"):
        found = cost(recipe.build(recipe.data.shape, None)[0], recipe.data.size)
    flops = found.training_flops(recipe.training.total_images)
    assert found.forward_flops / 1e9 == pytest.approx(gflops, abs=0.05)
    assert flops / (0.45 * PEAK_FLOPS["H100"]) / 3600 == pytest.approx(hours, rel=0.003)

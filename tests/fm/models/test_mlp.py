"""The 2-D network."""

import torch

from fm.models import MLP, MLPSettings


def test_shapes_and_times() -> None:
    net = MLPSettings(width=8, depth=3).build((2,))
    x = torch.randn(4, 2)
    assert net(x, torch.rand(4)).shape == x.shape
    assert torch.equal(net(x, torch.tensor(0.3)), net(x, torch.full((4,), 0.3)))
    pictures = torch.randn(4, 1, 3, 3)
    assert MLPSettings(width=8).build((1, 3, 3))(pictures, torch.rand(4)).shape == pictures.shape


def test_a_network_that_jumps_takes_the_time_to_the_steps_end_too() -> None:
    net, x, t = MLPSettings(width=8).build((2,), jumps=True), torch.randn(3, 2), torch.rand(3)
    assert torch.equal(net(x, t), net(x, t, h=torch.zeros(3))) and not torch.equal(
        net(x, t), net(x, t, h=torch.ones(3))
    )


def test_paper_network_has_five_hidden_layers_of_512() -> None:
    widths = [layer.weight.shape for layer in MLPSettings().build((2,)).hidden]
    assert widths == [(512, 3)] + [(512, 512)] * 4


def test_under_autocast_times_near_one_stay_apart() -> None:
    net, x, t = MLP(2, 8, 2), torch.zeros(2, 2), torch.tensor([0.9990, 0.9999])
    torch.nn.init.constant_(net.hidden[0].weight, 1.0)
    first = []
    net.hidden[0].register_forward_hook(lambda module, args, out: first.append(out))
    with torch.autocast("cpu", torch.bfloat16):
        net(x, t)
    assert first[0].dtype == torch.float32 and not torch.equal(first[0][0], first[0][1])


def test_a_label_changes_its_own_row_and_none_means_none() -> None:
    net, x, t = MLP(2, 8, 2, classes=3), torch.randn(3, 2), torch.rand(3)
    free = net(x, t)
    mixed = net(x, t, torch.tensor([-1, 0, -1]))
    assert torch.equal(mixed[[0, 2]], free[[0, 2]]) and not torch.equal(mixed[1], free[1])

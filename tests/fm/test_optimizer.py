"""Adam against torch.optim's, and the flat buffers it works on."""

import subprocess
import sys

import torch
from torch import nn

from fm.optimizer import Adam
from fm.parallel import ALONE, Gradients


def network() -> nn.Module:
    torch.manual_seed(0)
    return (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 2, 1)).double().to(memory_format=torch.channels_last)
    )


def test_equals_torch_optim() -> None:
    ours, theirs = network(), network()
    gradients = Gradients(ours, ALONE, {})
    adam = Adam(ours, gradients)
    peer = torch.optim.Adam(theirs.parameters(), lr=1e-2)
    for step in range(1, 6):
        x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
        gradients.zero()
        peer.zero_grad()
        ours(x).square().mean().backward()
        theirs(x).square().mean().backward()
        adam.step(1e-2, step)
        peer.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_moments_are_named_and_live() -> None:
    model = network()
    adam = Adam(model, Gradients(model, ALONE, {}))
    tensors = adam.tensors()
    assert set(tensors) == {f"{kind}.{name}" for kind in ("exp_avg", "exp_avg_sq") for name in model.state_dict()}
    tensors["exp_avg.0.weight"].fill_(3.0)
    assert adam.exp_avg.eq(3).sum() == model[0].weight.numel()
    assert tensors["exp_avg.0.weight"].shape == model[0].weight.shape


def test_a_step_needs_no_compiler() -> None:
    """Loading torch's compiler takes each worker five seconds."""
    step = (
        "import sys, torch; from fm.optimizer import Adam; from fm.parallel import ALONE, Gradients\n"
        "net = torch.nn.Linear(2, 2); adam = Adam(net, Gradients(net, ALONE, {})); adam.step(0.1, 1)\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", step], check=True)

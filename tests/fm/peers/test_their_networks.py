"""The peers' own networks, trained and saved as their examples do, -> RUNs that draw what the peers' own code draws.

torchcfm is the real package. Its U-Net is guided-diffusion's, and flow_matching's too, with every option of theirs.
"""

import argparse
import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchcfm.conditional_flow_matching import (
    ConditionalFlowMatcher,
    ExactOptimalTransportConditionalFlowMatcher,
    VariancePreservingConditionalFlowMatcher,
)
from torchcfm.models.unet.unet import UNetModel, UNetModelWrapper
from torchdiffeq import odeint

import fm
from fm.flow import NOISE
from fm.importing import import_run
from fm.noise import draws
from fm.recipe import Recipe

SIZE, C = 16, 256 / 255
OURS = 'peer.pixels="(k + u)/128 - 1"'


def average(net: nn.Module, ema: nn.Module, decay: float) -> None:
    for into, new in zip(ema.parameters(), net.parameters(), strict=True):
        into.data.mul_(decay).add_(new.data, alpha=1 - decay)


def trained(net: nn.Module, loss: Any, steps: int = 2) -> tuple[nn.Module, Any]:
    """Its average and its optimiser after two steps, from weights of chance by which it attends and moves states."""
    for name, parameter in net.named_parameters():
        large = name.startswith("out.2") or "qkv" in name or "proj_out" in name
        nn.init.normal_(parameter, std=0.5 if large else 0.05)
    ema, optimizer = copy.deepcopy(net), torch.optim.Adam(net.parameters(), lr=1e-3)
    images = torch.randint(256, (4, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for _ in range(steps):
        optimizer.zero_grad()
        loss((images / 255 - 0.5) / 0.5).backward()  # ToTensor, Normalize(0.5, 0.5)
        optimizer.step()
        average(net, ema, 0.5)
    return ema.eval(), optimizer


def of_torchcfm(file: Path, matcher: Any) -> nn.Module:
    """Its CIFAR-10 example in small: the same calls, the same dictionary -> the averaged network."""
    torch.manual_seed(0)
    net = UNetModelWrapper(
        dim=(3, SIZE, SIZE), num_res_blocks=1, num_channels=64, channel_mult=[1, 2], num_heads=4, num_head_channels=64,
        attention_resolutions="8", dropout=0.1,
    )  # fmt: skip

    def loss(x_1: Tensor) -> Tensor:
        t, x_t, u_t = matcher.sample_location_and_conditional_flow(torch.randn_like(x_1), x_1)
        return torch.mean((net(t, x_t) - u_t) ** 2)

    ema, optim = trained(net, loss)
    sched = torch.optim.lr_scheduler.LambdaLR(optim, lr_lambda=lambda step: min(step, 5) / 5)
    saved = {"net_model": net, "ema_model": ema, "sched": sched, "optim": optim}
    torch.save({name: value.state_dict() for name, value in saved.items()} | {"step": 2}, file)
    return ema


def drawn_by(velocity: Any, method: str, steps: int, **tolerances: float) -> Tensor:
    """As the peers draw, from the noise that we draw from."""
    z = draws(0, NOISE, torch.arange(4), (3, SIZE, SIZE))
    with torch.no_grad():
        return odeint(velocity, z, torch.linspace(0, 1, steps + 1), method=method, **tolerances)[-1]


@pytest.mark.parametrize("kind", ["icfm", "otcfm"])
def test_torchcfm_s_network_draws_what_torchdiffeq_draws_from_it(tmp_path: Path, kind: str) -> None:
    matcher = {"icfm": ConditionalFlowMatcher, "otcfm": ExactOptimalTransportConditionalFlowMatcher}[kind](sigma=0.0)
    file = tmp_path / f"{kind}_cifar10_weights_step_2.pt"
    net = of_torchcfm(file, matcher)
    facts = import_run(file, tmp_path / "run", size=SIZE)
    assert (facts["step"], facts["weights"], facts["attention"]) == (
        2,
        "ema_model",
        "heads of 64 channels; heads before q, k, v",
    )
    flow = fm.load(tmp_path / "run")
    theirs = drawn_by(net, "midpoint", 8)
    assert (theirs - drawn_by(lambda t, x: 0 * x, "midpoint", 1)).abs().max() > 0.1  # it does move
    ours = flow.draw(4, seed=0, method="midpoint", nfe=16).x
    torch.testing.assert_close(C * ours, theirs, rtol=0, atol=1e-4)
    pixels = (theirs * 127.5 + 128).clip(0, 255).to(torch.uint8)  # as its compute_fid.py makes them
    off = (flow.sample(4, seed=0, method="midpoint", nfe=16).int() - pixels.int()).abs()
    assert off.max() <= 1 and (off > 0).float().mean() < 0.01  # on the edge of a level


def test_in_its_own_pixels_every_step_is_the_peer_s(tmp_path: Path) -> None:
    net = of_torchcfm(tmp_path / "icfm.pt", ConditionalFlowMatcher(sigma=0.0))
    import_run(tmp_path / "icfm.pt", tmp_path / "run", size=SIZE, changes=[OURS])
    ours = fm.load(tmp_path / "run").draw(4, seed=0, method="euler", nfe=4).x
    torch.testing.assert_close(ours, drawn_by(net, "euler", 4), rtol=0, atol=1e-5)


def test_torchcfm_s_stochastic_interpolant_is_asked_on_its_own_path(tmp_path: Path) -> None:
    file = tmp_path / "si_cifar10_weights_step_2.pt"
    net = of_torchcfm(file, VariancePreservingConditionalFlowMatcher(sigma=0.0))
    assert "quarter circles" in import_run(file, tmp_path / "run", size=SIZE)["time"]
    flow = fm.load(tmp_path / "run")
    exact = {"rtol": 1e-5, "atol": 1e-5}
    ours = flow.draw(4, seed=0, method="dopri5", **exact).x
    torch.testing.assert_close(C * ours, drawn_by(net, "dopri5", 1, **exact), rtol=0, atol=1e-4)
    assert flow.lineage["method"] == "SI (trigonometric)"


def test_flow_matching_s_cifar10_checkpoint_as_its_example_saves_it(tmp_path: Path) -> None:
    """Its config: one head, q, k, v before heads, scale-shift, sizes changed without convolutions; its EMA's layout."""
    torch.manual_seed(0)
    net = UNetModel(
        SIZE, 3, 32, 3, num_res_blocks=2, attention_resolutions=(2,), dropout=0.3, channel_mult=(2, 2, 2),
        conv_resample=False, num_heads=1, num_head_channels=-1, use_scale_shift_norm=True,
        use_new_attention_order=True,
    )  # fmt: skip
    ema, optimizer = trained(net, lambda x: (net(torch.rand(4), torch.randn_like(x)) - x).square().mean())
    state = {f"model.{name}": value for name, value in net.state_dict().items()} | {"num_updates": torch.tensor(2)}
    state |= {f"shadow_params.{i}": p.detach().clone() for i, p in enumerate(ema.parameters())}
    args = argparse.Namespace(dataset="cifar10", batch_size=32, job_dir=tmp_path / "%j", discrete_flow_matching=False)
    content = {"model": state, "optimizer": optimizer.state_dict(), "lr_schedule": {}, "epoch": 1, "scaler": {}}
    torch.save(content | {"args": args}, tmp_path / "checkpoint-1.pth")
    facts = import_run(tmp_path / "checkpoint-1.pth", tmp_path / "run", size=SIZE, changes=[OURS])
    assert facts["assumed"] == "schedule ot, 1 head: by its network for cifar10"
    model = Recipe.load(tmp_path / "run").model
    assert not model.resample_conv and not model.updown_blocks and model.multiples == (2, 2, 2)  # type: ignore[union-attr]
    ours = fm.load(tmp_path / "run").draw(4, seed=0, method="midpoint", nfe=8).x
    torch.testing.assert_close(ours, drawn_by(ema, "midpoint", 4), rtol=0, atol=1e-4)


@pytest.mark.parametrize("options", [{"num_heads": 4}, {"num_head_channels": 32, "use_new_attention_order": True}])
def test_guided_diffusion_s_average_with_fixed_heads_or_the_new_order(tmp_path: Path, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net = UNetModel(
        SIZE, 3, 32, 6, num_res_blocks=1, attention_resolutions=(2,), channel_mult=(1, 2), num_classes=5,
        use_scale_shift_norm=True, resblock_updown=True, **options,
    )  # fmt: skip
    y = torch.tensor([0, 1, 2, 3])
    ema, _ = trained(net, lambda x: (net(torch.rand(4) * 999, torch.randn_like(x), y)[:, :3] - x).square().mean())
    file = tmp_path / "ema_0.9999_000002.pt"
    torch.save(ema.state_dict(), file)
    told = {"heads": 4} if "num_heads" in options else {"changes": ["model.head_channels=32"]}
    new = options.get("use_new_attention_order")
    import_run(file, tmp_path / "run", size=SIZE, schedule="linear", new_attention_order=new, **told)  # type: ignore[arg-type]
    ours = fm.load(tmp_path / "run").model.network  # type: ignore[union-attr]
    x, step = torch.randn(4, 3, SIZE, SIZE), torch.tensor([0.0, 10, 500, 999])
    with torch.no_grad():
        expected = ema(step, x, y)[:, :3]
        torch.testing.assert_close(ours(x, step, y), expected, rtol=0, atol=1e-5)
        wrong = tmp_path / "wrong"
        import_run(file, wrong, size=SIZE, schedule="linear", changes=["model.head_channels=64"])
        assert (fm.load(wrong).model.network(x, step, y) - expected).abs().max() > 1e-4  # type: ignore[union-attr]

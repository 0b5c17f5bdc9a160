"""The network's speed: a training step and sampling, against torchcfm's U-Net and the same ADM written plainly.

One set of weights in all three. Then what each way to speed brings by itself. CPU seconds, the median of ratios taken
in turns.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from statistics import median
from unittest import mock

import torch
import torchdiffeq
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchcfm.models.unet import UNetModel

from fm.ema import Ema
from fm.footprint import lacking
from fm.memory import keep_freed
from fm.models import UNet, UNetSettings, blocks
from fm.models.dropout import dropout_at
from fm.optimizer import Adam
from fm.parallel import ALONE, Gradients
from fm.recipe import Recipe
from fm.solvers import solve
from tests.benchmarks.plain_adm import PlainADM
from tests.benchmarks.timing import Row, once

REPEATS, NFE, RATE, CLIP, DECAY = 5, 4, 2e-4, 1.0, 0.9999
SIZES = {"cifar10-otcfm": 8, "demo": 32}  # preset: images in a batch
Call = Callable[[Tensor, Tensor], Tensor]


def networks() -> Iterator[Row]:
    keep_freed()
    for preset, batch in SIZES.items():
        yield from compared(preset, batch)
    yield from ways()


def compared(preset: str, batch: int) -> Iterator[Row]:
    recipe = Recipe.load(preset)
    settings = recipe.model
    assert isinstance(settings, UNetSettings)
    ours, theirs, plain = three(settings, recipe.data.size)

    def torchcfm(x: Tensor, t: Tensor) -> Tensor:
        return theirs(settings.time_scale * t, x)

    x, t = torch.randn(batch, *recipe.data.shape), torch.rand(batch)
    what = f"{preset}, {sum(p.numel() for p in ours.parameters()) / 1e6:.1f} M weights, {batch} images"
    steps = {"torchcfm's": usual_step(theirs, torchcfm, x, t), "plain ADM": usual_step(plain, plain, x, t)}
    yield from against(f"{what}, training step", own_step(ours, x, t), steps)
    for net in (ours, theirs, plain):
        net.eval()
    samples = {
        "torchcfm's under torchdiffeq": lambda: torchdiffeq_sample(torchcfm, x),
        "plain ADM under torchdiffeq": lambda: torchdiffeq_sample(plain, x),
    }
    yield from against(f"{what}, midpoint, NFE {NFE}", lambda: sample(ours, x), samples)


def three(settings: UNetSettings, size: int) -> tuple[UNet, nn.Module, PlainADM]:
    """Ours, torchcfm's and the plain network, with equal weights and outputs."""
    ours, plain = settings.build((3, size, size)), PlainADM(settings, size)
    theirs = UNetModel(
        dim=(3, size, size),
        num_channels=settings.channels,
        num_res_blocks=settings.blocks,
        channel_mult=settings.multiples,
        attention_resolutions=",".join(map(str, settings.attention_resolutions)) or str(2 * size),
        num_head_channels=settings.head_channels,
        dropout=settings.dropout,
        use_scale_shift_norm=settings.scale_shift,
        resblock_updown=settings.updown_blocks,
    )
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.02)
    x, t = torch.randn(2, 3, size, size), torch.rand(2)
    for net in (theirs, plain):
        net.load_state_dict(ours.state_dict())
    with torch.no_grad():
        outputs = ours.eval()(x, t), theirs.eval()(settings.time_scale * t, x), plain.eval()(x, t)
    for found in outputs[1:]:
        torch.testing.assert_close(found, outputs[0], rtol=0, atol=1e-5 * float(outputs[0].abs().max()))
    for net in (ours, theirs, plain):
        net.train()
    return ours, theirs, plain


def own_step(
    net: nn.Module, x: Tensor, t: Tensor, call: Call | None = None, adam: dict[str, bool] | None = None
) -> Callable[[], None]:
    """As `fm.training` takes it: dropout by position, flat gradients, their norm, Adam, average.

    `call` instead of the network itself; `adam`: options of torch's Adam instead of ours.
    """
    gradients = Gradients(net, ALONE, {})
    average, positions = Ema(net, 500.0, 0.0), torch.arange(len(x))
    update: Callable[[], object] = (
        partial(Adam(net, gradients).step, RATE, 1)
        if adam is None
        else torch.optim.Adam(net.parameters(), RATE, foreach=adam.get("foreach"), fused=adam.get("fused")).step
    )

    def step() -> None:
        gradients.zero()
        with dropout_at(net, 0, positions):
            (net if call is None else call)(x, t).square().mean().backward()
        gradients.clip(CLIP)
        update()
        average.update(net, 1000, len(x))

    return step


def usual_step(net: nn.Module, call: Call, x: Tensor, t: Tensor) -> Callable[[], None]:
    """As torchcfm's example takes it, with torch's optimiser and clipping and a loop over weights for the average."""
    adam = torch.optim.Adam(net.parameters(), RATE)
    average = [p.detach().clone() for p in net.parameters()]

    def step() -> None:
        adam.zero_grad()
        call(x, t).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        adam.step()
        with torch.no_grad():
            for old, new in zip(average, net.parameters(), strict=True):
                old.copy_(old * DECAY + new * (1 - DECAY))

    return step


def sample(net: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        solve(net, x, method="midpoint", nfe=NFE)


def torchdiffeq_sample(call: Call, x: Tensor) -> None:
    with torch.no_grad():
        torchdiffeq.odeint(
            lambda t, x: call(x, t.expand(len(x))), x, torch.linspace(0, 1, NFE // 2 + 1), method="midpoint"
        )


def against(what: str, ours: Callable[[], None], peers: dict[str, Callable[[], None]]) -> Iterator[Row]:
    """A row for each peer, all taken in turns."""
    works = [ours, *peers.values()]
    for work in works:
        work()
    taken = [[once(work) for work in works] for _ in range(REPEATS)]
    for place, name in enumerate(peers, start=1):
        mine, theirs = (median(row[at] for row in taken) for at in (0, place))
        yield f"{what}: {mine:.2f} s", f"{name} {theirs:.2f} s", median(row[0] / row[place] for row in taken)


def ways() -> Iterator[Row]:
    """A training step of cifar10-otcfm with one thing otherwise, over the step as it is."""
    recipe, batch = Recipe.load("cifar10-otcfm"), 4
    x, t = torch.randn(batch, *recipe.data.shape), torch.rand(batch)

    def net() -> nn.Module:
        return recipe.build(recipe.data.shape, None)[0]

    as_is = own_step(net(), x, t)

    def other(name: str, step: Callable[[], None], inside: Callable[[], AbstractContextManager] = nullcontext) -> Row:
        def work() -> None:
            with inside():
                step()

        ((says, _, ratio),) = against(name, work, {"": as_is})
        return says, "the step as it is", ratio

    yield other("convolution of doubled pixels", as_is, lambda: mock.patch.object(blocks, "DOUBLED_PIXELS", 2**40))
    yield other("attention written out", as_is, lambda: sdpa_kernel(SDPBackend.MATH))
    last = net().to(memory_format=torch.channels_last)
    yield other("channels_last", own_step(last, x.to(memory_format=torch.channels_last), t))
    for name, options in {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}.items():
        yield other(f"torch.optim.Adam, {name}", own_step(net(), x, t, adam=options))
    compiled = net()
    yield other("torch.compile", own_step(compiled, x, t, torch.compile(compiled)))
    if lacks := lacking(recipe.training.model_copy(update={"precision": "bf16"}), "cpu"):
        yield "bf16", lacks, float("nan")
    else:
        yield other("bf16", as_is, lambda: torch.autocast("cpu", torch.bfloat16))

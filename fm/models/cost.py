"""What a network costs: its parameters and the floating-point operations of one image, counted without computing."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call

# A second, of dense bf16 products: NVIDIA's data sheets, of the SXM cards where there are several.
PEAK_FLOPS = {"A100": 312e12, "H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12, "L40S": 362e12}
H100_FLOPS = PEAK_FLOPS["H100"]
UTILISATION = 0.2  # of them, by a training in bf16: measured (tests/benchmarks/README.md, "On a GPU")
SLOWER = {"tf32": 1.4, "fp32": 5.4}  # than in bf16, by precision, the least first: measured on the same card
STATED = f"{UTILISATION:.0%} of {H100_FLOPS / 1e12:.0f} TFLOP/s (bf16)".replace("%", " %")


@dataclass(frozen=True)
class Cost:
    """The forward pass of one image; a training step costs three times that for each image, or what its objective
    says."""

    parameters: int
    forward_flops: int  # two for each multiply-add of a convolution or matrix product; the rest is left out

    def training_flops(self, images: int, passes: float = 3.0) -> int:
        """Of a training that sees so many images, at so many forward passes for each."""
        return int(passes * self.forward_flops) * images


def h100_hours(flops: float) -> float:
    """Of so many FLOP, at `UTILISATION` of `H100_FLOPS`."""
    return flops / (UTILISATION * H100_FLOPS) / 3600


def peak_flops(gpu: str) -> float:
    """`PEAK_FLOPS` of a card as torch.cuda names it; 0 where it is not in the table."""
    return next((peak for name, peak in PEAK_FLOPS.items() if name in gpu), 0.0)


def taken(model: nn.Module, channels: int) -> int:
    """The channels that a network takes for states of so many: more than those where it is told a condition."""
    return int(getattr(model, "in_channels", channels))


def cost(model: nn.Module, image_size: int, channels: int = 3) -> Cost:
    """Counts for square images of that size; the weights are neither copied nor read, and may be on the meta device."""
    from torch.utils.flop_counter import FlopCounterMode  # the first count loads torch's compiler, 4 CPU seconds

    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    x, t = (torch.empty(1, *shape, device="meta") for shape in ((taken(model, channels), image_size, image_size), ()))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        functional_call(model, shapes, (x, t))
    return Cost(sum(p.numel() for p in model.parameters()), counter.get_total_flops())

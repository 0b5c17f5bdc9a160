"""How a GPU computes a training: the same bits again, and float32 as it is written unless less was asked for.

Left to themselves, cuDNN rounds the factors of float32 convolutions to TF32, and the backward passes of convolution and
attention add in whatever order is ready first: a resumed run would not be the one that was never stopped. A CPU needs
none of this.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def as_asked(device: torch.device, tf32: bool) -> Iterator[None]:
    """Inside, a GPU rounds float32 products only with `tf32`, and its convolutions add in one order.

    Both passes belong inside.
    """
    if device.type != "cuda":
        yield
        return
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32, convolutions.deterministic
    convolutions.allow_tf32, products.allow_tf32, convolutions.deterministic = tf32, tf32, True
    try:
        yield
    finally:
        convolutions.allow_tf32, products.allow_tf32, convolutions.deterministic = before


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """float32 as it is written, whatever a training asked for: no TF32, no autocast. For likelihoods and features."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def backward(loss: Tensor, compiled: bool) -> None:
    """loss.backward(), in which a GPU adds in one order; not of a `compiled` network.

    Torch's compiler would then take slower kernels everywhere: a third more time for a step.
    """
    if compiled or loss.device.type != "cuda":
        return loss.backward()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else matrix products have no order
    filling: Any = torch.utils.deterministic
    before = torch.get_deterministic_debug_mode(), filling.fill_uninitialized_memory
    torch.set_deterministic_debug_mode("warn")  # a plug-in's network may have sums that have no order
    filling.fill_uninitialized_memory = False  # which is for finding faults
    try:
        loss.backward()
    finally:
        torch.set_deterministic_debug_mode(before[0])
        filling.fill_uninitialized_memory = before[1]

"""The clock of a GPU, the arithmetic that is measured on it, and the most that it gives."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn

from fm.recipe import Recipe

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"


def synchronize() -> None:
    if GPU:
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], repeats: int) -> float:
    """By the clock, the median; the first call is not counted."""
    work()
    found = []
    for _ in range(repeats):
        synchronize()
        start = time.perf_counter()
        work()
        synchronize()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


@contextmanager
def arithmetic(tf32: bool = False, benchmark: bool = False) -> Iterator[None]:
    """TF32 on or off in convolutions and matrix products alike; whether cuDNN tries its algorithms."""
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32, convolutions.benchmark
    convolutions.allow_tf32, products.allow_tf32, convolutions.benchmark = tf32, tf32, benchmark
    try:
        yield
    finally:
        convolutions.allow_tf32, products.allow_tf32, convolutions.benchmark = before


@cache
def matmul_flops(kind: str) -> float:
    """Of a square product, the most this GPU gives: in bf16, tf32 or fp32."""
    size = 8192 if GPU else 256
    a, b = (torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16 if kind == "bf16" else None) for _ in range(2))
    with arithmetic(tf32=kind == "tf32"):
        return 2 * size**3 / seconds(lambda: a @ b, 5)


def network(recipe: Recipe) -> tuple[nn.Module, Any]:
    with torch.device(DEVICE):  # weights are drawn where they are
        return recipe.build(recipe.data.shape, None)

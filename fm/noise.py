"""Randomness by (seed, stream, position): the same draw for a sample whatever the rank, batch size or order.

A counter-based generator (Philox4x32-10; Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") keyed by a
hash of seed and stream, with the stream position in its counter. All integer work is exact int64 arithmetic, so the
words are equal on every device; only the last float operations may round differently there.
"""

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def key(seed: int, stream: str) -> tuple[int, int]:
    """Two 32-bit key words from a hash of (seed, stream): never seed + something, so no two streams ever meet."""
    raw = hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=8).digest()
    return int.from_bytes(raw[:4], "little"), int.from_bytes(raw[4:], "little")


def _halves(factor: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of factor * word: int64 wraps modulo 2^64, which keeps every bit of the unsigned product."""
    product = word * factor
    return (product >> 32) & _MASK, product & _MASK


def philox(counter: Sequence[Tensor], key_words: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 on four int64 tensors of 32-bit words (broadcast together) -> four tensors of 32-bit words."""
    c_0, c_1, c_2, c_3 = torch.broadcast_tensors(*counter)
    k_0, k_1 = key_words
    for _ in range(10):
        high_0, low_0 = _halves(_MULTIPLIERS[0], c_0)
        high_1, low_1 = _halves(_MULTIPLIERS[1], c_2)
        c_0, c_1, c_2, c_3 = high_1 ^ c_1 ^ k_0, low_1, high_0 ^ c_3 ^ k_1, low_0
        k_0, k_1 = (k_0 + _WEYL[0]) & _MASK, (k_1 + _WEYL[1]) & _MASK
    return c_0, c_1, c_2, c_3


def words(seed: int, stream: str, positions: Tensor, count: int, device: str | torch.device = "cpu") -> Tensor:
    """`count` 32-bit words for each position, as int64 (len(positions), count)."""
    at = torch.as_tensor(positions, dtype=torch.int64).to(device, non_blocking=True)[:, None]
    block = torch.arange(-(-count // 4), dtype=torch.int64, device=device)[None, :]
    out = philox((block, torch.zeros_like(block), at & _MASK, (at >> 32) & _MASK), key(seed, stream))
    return torch.stack(out, dim=-1).flatten(1)[:, :count]


def uniforms(
    seed: int, stream: str, positions: Tensor, shape: Sequence[int], device: str | torch.device = "cpu"
) -> Tensor:
    """float32 (len(positions), *shape), uniform on the open (0, 1)."""
    raw = words(seed, stream, positions, math.prod(shape), device)
    return _unit(raw).reshape(len(raw), *shape)


def draws(
    seed: int, stream: str, positions: Tensor, shape: Sequence[int], device: str | torch.device = "cpu"
) -> Tensor:
    """float32 (len(positions), *shape), standard normal (Box and Muller 1958)."""
    count = math.prod(shape)
    raw = words(seed, stream, positions, count + count % 2, device)
    first, second = raw.chunk(2, dim=1)
    # The radius keeps all 32 bits: its tail reaches 6.7 standard deviations.
    radius = ((first.to(torch.float32) + 0.5) * 2.0**-32).log_().mul_(-2.0).clamp_(min=0.0).sqrt_()
    angle = _unit(second).mul_(2 * math.pi)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count].reshape(len(raw), *shape)


def _unit(raw: Tensor) -> Tensor:
    """The upper 23 bits as (k + 1/2) / 2^23: float32 holds each exactly, and neither 0 nor 1 occurs."""
    return ((raw >> 9).to(torch.float32) + 0.5) * 2.0**-23

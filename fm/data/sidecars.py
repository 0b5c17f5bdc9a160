"""Indexes that others read beside a tar: NVIDIA DALI's (`NAME.idx`, of its wds2idx) and Megatron-Energon's
(`NAME.tar.idx`), which needs `energon prepare` besides. Our own is `index/NAME.npy`."""

from typing import NamedTuple

import numpy as np

from fm.data.ustar import BLOCK

VERSION = "v1.2"  # of DALI's text


class Member(NamedTuple):
    """A file of a tar: its bytes lie at `offset`, behind a header of one block."""

    name: str
    offset: int
    length: int


def dali(samples: list[list[Member]]) -> bytes:
    """A line for each sample, for each of its members: ending, offset, length, name."""
    lines = [
        " ".join(f"{name.partition('.')[2]} {offset} {length} {name}" for name, offset, length in members)
        for members in samples
    ]
    return "".join(f"{line}\n" for line in [f"{VERSION} {len(samples)}", *lines]).encode()


def energon(samples: list[list[Member]], tar_bytes: int) -> bytes:
    """Where each sample's first header begins, and where the tar's two last blocks do: 8 bytes each, little-endian."""
    starts = [members[0].offset - BLOCK for members in samples]
    return np.array([*starts, tar_bytes - 2 * BLOCK], "<u8").tobytes()

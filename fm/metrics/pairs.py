"""Sums over all pairs of rows of two sets, a tile at a time: float64, sets of any size, on a GPU if there is one.

A tile is converted to float64 when its turn comes, so beside the rows a sum holds three tiles of 2,048 rows.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

TILE = 2048  # rows; at 2,048 features a tile of rows and a tile of pairs take 34 MB each

Kernel = Callable[[Tensor, Tensor], Tensor]  # rows (a, d) and (b, d), float64 -> one number for each pair (a, b)


def place(rows: Tensor) -> torch.device:
    """Where pairs of these rows are computed: where the rows are, or on the GPU that this process may use."""
    return torch.device("cuda") if rows.is_cuda or torch.cuda.is_available() else rows.device


def tiles(rows: Tensor, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
    """The rows in tiles, each where it stands, float64 on the device."""
    for start in range(0, len(rows), TILE):
        part = slice(start, start + TILE)
        yield part, rows[part].to(device, torch.float64)


def across(kernel: Kernel, x: Tensor, y: Tensor, groups: int = 1) -> Tensor:
    """The kernel summed over all pairs of a row of x and one of y, by the group of the former: (groups,), on the CPU.

    Row i belongs to group i modulo `groups`.
    """
    device = place(x)
    total = torch.zeros(groups, dtype=torch.float64, device=device)
    for part, rows in tiles(x, device):
        group = members(part, len(rows), groups, device)
        for _, others in tiles(y, device):
            total += group.T @ kernel(rows, others).sum(1)
    return total.cpu()


def inside(kernel: Kernel, x: Tensor, groups: int = 1) -> Tensor:
    """A symmetric kernel summed over all pairs of rows of x, a row with itself too, by group: (groups, groups)."""
    device = place(x)
    total = torch.zeros(groups, groups, dtype=torch.float64, device=device)
    for part, rows in tiles(x, device):
        group = members(part, len(rows), groups, device)
        for other, others in tiles(x[: part.stop], device):
            found = group.T @ (kernel(rows, others) @ members(other, len(others), groups, device))
            total += found if other.start == part.start else found + found.T
    return total.cpu()


def members(part: slice, count: int, groups: int, device: torch.device) -> Tensor:
    """(count, groups) of 0 and 1: the group of each row from `part.start` on."""
    group = torch.arange(part.start, part.start + count, device=device) % groups
    return torch.nn.functional.one_hot(group, groups).double()

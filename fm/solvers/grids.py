"""Where a fixed-step solver puts its steps: named grids from t_0 to t_1, both ends included, in either direction.

"uniform" in t is the paper's and the default. The others are even in a function of the noise level s = sigma_t / a_t of
the path, between s = 80 and 0.002 (Karras et al. 2022, table 1); their first and last step reach to the span's ends.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fm.errors import SettingsError
from fm.paths import Path

LARGEST, SMALLEST = 80.0, 0.002
Grid = Callable[[Path | None, float, float, int], list[float]]


def uniform(path: Path | None, start: float, end: float, count: int) -> list[float]:
    """`count` equal steps in t."""
    return [start + (end - start) * (i / count) for i in range(count)] + [end]


def edm(path: Path | None, start: float, end: float, count: int) -> list[float]:
    """Equal steps in s^(1/7): EDM's discretisation (Karras et al. 2022, eq. 5)."""
    return _between(path, start, end, count, lambda s: s ** (1 / 7), lambda v: v**7)


def log_snr(path: Path | None, start: float, end: float, count: int) -> list[float]:
    """Equal steps in log(a_t / sigma_t), half the logarithm of the signal-to-noise ratio (Lu et al. 2022)."""
    return _between(path, start, end, count, lambda s: -s.log(), lambda v: (-v).exp())


def noise_level(path: Path, t: Tensor) -> Tensor:
    """s = sigma_t / a_t, infinite where a_t = 0."""
    s = path.schedule(t)
    return s.sigma / s.a


def _between(
    path: Path | None,
    start: float,
    end: float,
    count: int,
    measure: Callable[[Tensor], Tensor],
    inverse: Callable[[Tensor], Tensor],
) -> list[float]:
    if path is None:
        raise SettingsError("this grid follows a path's noise level", where="grid", mend="give path, or grid 'uniform'")
    ends = noise_level(path, torch.tensor([start, end], dtype=torch.float64)).clamp(SMALLEST, LARGEST)
    if ends[0] == ends[1]:  # all of the span lies beyond one of the two levels
        return uniform(path, start, end, count)
    first, last = measure(ends)
    inner = torch.arange(1, count, dtype=torch.float64) / count
    return [start, *_times_of(path, inverse(first + (last - first) * inner)).tolist(), end]


def _times_of(path: Path, levels: Tensor) -> Tensor:
    """The times of noise levels, which fall from t = 0 to t_max, by bisection to the last bit."""
    low, high = torch.zeros_like(levels), torch.full_like(levels, path.t_max)
    for _ in range(54):
        middle = (low + high) / 2
        early = noise_level(path, middle) > levels
        low, high = torch.where(early, middle, low), torch.where(early, high, middle)
    return high


GRIDS: dict[str, Grid] = {"uniform": uniform, "edm": edm, "log_snr": log_snr}

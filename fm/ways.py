"""How samples travel to data: how straight, whether they turn back, when the picture shows (Figures 3 and 6).

All is measured on states at the same times for every path, from solutions with next to no numerical error.
"""

import torch
from torch import Tensor

TIMES = tuple(step / 32 for step in range(33))
ALIKE = 0.9  # correlation with the finished picture from which on it shows


def described(states: Tensor) -> dict[str, Tensor]:
    """Of states (len(TIMES), n, *shape) at `TIMES`, each (n,) float64.

    bend: integral of |v - (x_1 - x_0)|^2 dt by |x_1 - x_0|^2, 0 for a straight line at constant speed (Liu et al.
    2023).
    detour: the way's length by the distance of its ends, 1 for any straight line.
    backtracking: the sum of all increases of the distance to x_1, by that distance at t = 0.
    appears: the earliest of `TIMES` from which on the state's values correlate with x_1 by `ALIKE` or more.
    """
    x = states.double().flatten(2)
    steps, whole = x.diff(dim=0), x[-1] - x[0]
    far = whole.norm(dim=1)
    count = len(TIMES) - 1
    bend = (steps * count - whole).square().sum(2).mean(0) / far.square()
    left = (x - x[-1]).norm(dim=2)
    centred = x - x.mean(2, keepdim=True)
    alike = torch.cosine_similarity(centred, centred[-1:], dim=2) >= ALIKE
    since = alike.flip(0).long().cumprod(0).sum(0)  # how many of the last times it shows in without a gap
    return {
        "bend": bend,
        "detour": steps.norm(dim=2).sum(0) / far,
        "backtracking": left.diff(dim=0).clamp(min=0).sum(0) / left[0],
        "appears": torch.tensor(TIMES, dtype=torch.float64)[len(TIMES) - since.clamp(min=1)],
    }

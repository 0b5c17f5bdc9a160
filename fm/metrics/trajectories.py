"""Shapes of trajectories: how straight, how often away from their end, how far past it. States are (times, n, d)."""

import torch
from torch import Tensor


def straightness(states: Tensor) -> Tensor:
    """Length of each path over its chord, (n,): 1 is a straight line. A path of no length at all is NaN."""
    return states.diff(dim=0).norm(dim=2).sum(0) / (states[-1] - states[0]).norm(dim=1)


def backtracking(states: Tensor) -> Tensor:
    """The share of each path's steps that move away from its end point, (n,)."""
    return ((states - states[-1]).norm(dim=2).diff(dim=0) > 0).to(states.dtype).mean(0)


def overshoot(states: Tensor) -> Tensor:
    """How far each path goes past its end point, seen along its chord and as a share of it, (n,), 0 or more."""
    chord = states[-1] - states[0]
    along = ((states - states[0]) * chord).sum(2) / chord.square().sum(1)
    return (along.amax(0) - 1).clamp(min=0)


def turning(fields: Tensor) -> Tensor:
    """Angle in degrees between the vectors of the first time and of each time, mean over places: (times,)."""
    cosine = torch.nn.functional.cosine_similarity(fields, fields[:1], dim=2)
    return torch.rad2deg(cosine.clamp(-1, 1).acos()).mean(1)

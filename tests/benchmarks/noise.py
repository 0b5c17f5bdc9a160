"""Noise by stream position, against torch's own generator and as a share of a training step."""

from collections.abc import Iterator

import torch

from fm.noise import draws, uniforms
from fm.recipe import Recipe
from tests.benchmarks.timing import Row, in_turns


def randomness() -> Iterator[Row]:
    """All draws of one training step of preset demo."""
    recipe = Recipe.load("demo")
    batch, shape = recipe.training.batch_images, recipe.data.shape
    at = torch.arange(batch)
    model, objective = recipe.build(shape, None)
    x, t = torch.randn(batch, *shape), torch.rand(batch)

    def ours() -> None:
        draws(0, "z", at, shape), uniforms(0, "u", at, shape), uniforms(0, "t", at, ())

    def bare() -> None:
        torch.randn(batch, *shape), torch.rand(batch, *shape), torch.rand(batch)

    mine, theirs = in_turns(ours, bare)
    noise = f"noise of a step by position: {1000 * mine:.1f} ms"
    yield noise, f"torch.randn and rand {1000 * theirs:.1f} ms", mine / theirs
    mine, step = in_turns(ours, lambda: objective.loss(model, x, t=t, z=x).sum().backward(), repeats=3)
    yield noise, f"the demo network's step {1000 * step:.0f} ms (limit 0.02)", mine / step

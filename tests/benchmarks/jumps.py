"""What a training step of the objectives that jump takes, against one of flow matching: the same network and batch."""

from collections.abc import Iterator

import torch

from fm.recipe import Recipe
from tests.benchmarks.timing import Row, all_in_turns

BATCH, JUMPING = 64, 16  # samples, and those of them that jump: the objectives' share
NAMES = ("flow_matching", "shortcut", "mean_flow")


def jumps() -> Iterator[Row]:
    torch.manual_seed(0)
    recipes = {name: Recipe.load("mini", [f"objective={name}"]) for name in NAMES}
    built = {name: recipe.build(recipe.data.shape, None) for name, recipe in recipes.items()}
    x_1, z, t = torch.randn(BATCH, 3, 32, 32), torch.randn(BATCH, 3, 32, 32), torch.rand(BATCH)
    other = torch.where(torch.arange(BATCH) < JUMPING, torch.rand(BATCH), t)

    def step(name: str) -> None:
        model, objective = built[name]
        told = {"t": t, "z": z}
        if objective.jumps:
            told |= {"t": torch.minimum(t, other), "s": torch.maximum(t, other)}
        objective.loss(model, x_1, **told).sum().backward()

    taken = all_in_turns({name: lambda name=name: step(name) for name in NAMES})  # type: ignore[misc]
    for name in NAMES[1:]:
        peer = f"flow_matching, {taken['flow_matching']:.2f} s"
        yield f"a step of {name}, preset mini, batch {BATCH}, {taken[name]:.2f} s", peer, taken[name] / taken[NAMES[0]]

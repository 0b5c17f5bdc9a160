import math

import pytest
import torch

from fm import presets
from fm.drawing import drawn
from fm.ema import decay
from fm.recipe import Recipe
from tests import recipes

PAPER = {"cifar10": (256, 391_000), "imagenet32": (1024, 250_000), "imagenet64": (2048, 157_000)}
PAPER |= {"imagenet128": (1536, 500_000), "cifar10-otcfm": (128, 400_000)}


class Batch:
    """One picture, of chance."""

    def __init__(self, size: int, low: int | None = None) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8, generator=generator)
        self.labels = self.positions = self.noises = torch.zeros(1, dtype=torch.int64)
        self.low = None if low is None else torch.full((1, 3, low, low), 128, dtype=torch.uint8)


def test_the_table_is_the_one_that_the_presets_give() -> None:
    assert recipes.FILE.read_text() == recipes.text(), "run `python -m tests.recipes`"


@pytest.mark.parametrize("name", PAPER)
def test_lengths_and_averages_are_the_published_ones(name: str) -> None:
    (batch, steps), training = PAPER[name], Recipe.load(name).training
    assert (training.batch_images, training.total_images) == (batch, batch * steps)
    assert decay(training.ema_halflife_kimg[0], 0.0, 0, batch) == pytest.approx(0.9999, abs=1e-12)
    assert training.clip_norm == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", presets.names())
def test_the_network_makes_a_step(name: str) -> None:
    """By gradient alone: the largest with Adam's moments and averages would want 12 GB."""
    recipe = Recipe.load(name)
    model, objective = recipe.build(recipe.data.shape, None)
    torch.nn.init.normal_(model.out[2].weight, std=1e-4)  # at zero no gradient would pass
    settings = recipe.training.model_copy(update={"precision": "fp32"})  # a CPU may imitate bf16, in minutes
    x_1, told = drawn(Batch(recipe.data.size, recipe.data.low_size), slice(1), model, objective, settings)
    loss = objective.loss(model, x_1, **told)
    loss.sum().backward()
    # Such a network answers nearly zero: the loss is that of the velocity x_1 - (1 - sigma_min) z alone.
    assert 1.0 < float(loss.detach()) < 1.7 and 0 <= float(told["t"]) <= 1
    assert all(model.get_parameter(f"{layer}.weight").grad.any() for layer in ("out.2", "input_blocks.0.0"))
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None))
    assert 0 < norm < math.inf
    before = model.out[2].weight.clone()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=recipe.training.learning_rate)
    assert not torch.equal(model.out[2].weight, before)

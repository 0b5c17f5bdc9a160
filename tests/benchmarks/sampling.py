"""What sampling and likelihoods cost beyond the bare network of preset demo."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fm.flow import Flow
from fm.recipe import Recipe
from tests.benchmarks.timing import Row, in_turns

BATCH, NFE = 32, 8


def _network() -> tuple[Flow, Tensor, Tensor]:
    recipe = Recipe.load("demo")
    model, objective = recipe.build(recipe.data.shape, None)
    x, t = torch.randn(BATCH, *recipe.data.shape), torch.full((BATCH,), 0.5)
    return Flow(model, objective, recipe.data.shape), x, t


def _bare(flow: Flow, x: Tensor, t: Tensor) -> None:
    with torch.no_grad():
        for _ in range(NFE):
            flow.model(x, t)


def sampling() -> Iterator[Row]:
    """Samples by a fixed-step method, over as many bare calls of the network."""
    flow, x, t = _network()
    ours, peer = in_turns(lambda: flow.draw(BATCH, method="midpoint", nfe=NFE, batch=BATCH), lambda: _bare(flow, x, t))
    yield f"{BATCH} samples, midpoint, NFE {NFE}: {ours:.2f} s", f"{NFE} bare network calls (limit 1.03)", ours / peer


def likelihood() -> Iterator[Row]:
    """Likelihoods with the Hutchinson estimator, over as many calls of the network, and over calls with their products.

    An evaluation is a call and one vector-Jacobian product, so the second ratio is what the library adds.
    """
    flow, x, t = _network()
    images = torch.randint(0, 256, x.shape, dtype=torch.uint8)

    def products() -> None:
        for _ in range(NFE):
            state = x.clone().requires_grad_()
            torch.autograd.grad(flow.model(state, t), state, x)

    def ours() -> None:
        flow.bits_per_dim(images, method="midpoint", nfe=NFE, batch=BATCH)

    mine, peer = in_turns(ours, lambda: _bare(flow, x, t))
    says = f"bits/dim of {BATCH} images, midpoint, NFE {NFE}: {mine:.2f} s"
    yield says, f"{NFE} bare network calls (limit 2.1)", mine / peer
    mine, peer = in_turns(ours, products)
    yield says, f"{NFE} bare calls, each with a vector-Jacobian product", mine / peer

# ruff: noqa: F811  the fixtures are another file's
"""Numerical errors of solvers, against solutions that have converged or have not."""

import pytest
import torch
from torch import nn

from fm.cells import Cell
from fm.evaluation import converge, evaluate
from fm.flow import NOISE, Flow
from fm.noise import draws
from fm.objectives import FlowMatching
from fm.paths import OTPath
from fm.results import SETTLED, apart, notes_on
from tests.fm.test_evaluation import Scaling, features, flow, reference  # noqa: F401  two fixtures


def test_a_solvers_error_is_the_distance_to_the_converged_solution(features, reference):
    """Against the closed form x_0 s(1)/s(0) of the Gaussian flow; four times the steps, a quarter of Euler's error."""
    exact = converge(flow(), 0, 0, 24, reference.labels)
    errors = {}
    for nfe in (16, 64):
        cell = Cell(solver="euler", nfe=nfe, samples=20, batch=16, error_images=24, nll_images=0)
        row = evaluate(flow(), cell, features, reference, exact)
        truth = 0.3 * draws(0, NOISE, torch.arange(20), (3, 8, 8))
        states = flow().draw(20, method="euler", nfe=nfe).x
        assert row["solution_error"] == pytest.approx(float((states - truth).square().mean().sqrt()), rel=0.01)
        assert row["solution_error_images"] == 20 and row["solution_error_stderr"] > 0
        errors[nfe] = row["solution_error"]
    assert errors[16] / errors[64] == pytest.approx(4, rel=0.3)


class Chaotic(nn.Module):
    """Neighbouring values drive each other: what is almost the same at first is not for long."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(5.0))

    def forward(self, x, t, y=None):
        return self.rate * torch.sin(6 * x.roll(1, -1))


def test_solutions_of_a_network_too_stiff_to_solve_are_said_to_have_not_converged(features, reference):
    """No closed form is needed: solutions at 1e-6 and 1e-5 differ, whichever is nearer to the truth."""
    for model, settled in ((Scaling(), True), (Chaotic(), False)):
        net = Flow(model, FlowMatching(OTPath()), (3, 8, 8), None, {"weights": "w"})
        cell = Cell(solver="dopri5", tolerance=1e-5, samples=8, batch=8, error_images=8, nll_images=0)
        row = evaluate(net, cell, features, reference, converge(net, 0, 0, 8, reference.labels))
        assert (apart([row]) <= SETTLED) is settled
        assert any("which so have not" in note for note in notes_on([row])) is not settled

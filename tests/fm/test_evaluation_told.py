# ruff: noqa: F811  the fixtures are another file's
"""Evaluation of networks that are told more than noise and time: small pictures, labels, a guide."""

import numpy as np
import pytest
import torch
from torch import nn

from fm.cells import Cell, cell_of
from fm.enlarging import bicubic, shrunk
from fm.evaluation import evaluate, fidelity, parts, row_key, sample
from fm.flow import Flow
from fm.noise import draws
from fm.objectives import FlowMatching, Regression
from fm.paths import OTPath
from fm.reference import measure_reference, pairs
from fm.results import label
from tests.fm.test_evaluation import FD, Pictures, Scaling, features, reference, settings  # noqa: F401  two fixtures


class Paired(Pictures):
    def low(self, indices):
        images = torch.from_numpy(self.images[np.asarray(indices)]).permute(0, 3, 1, 2)
        return shrunk(images, 4).permute(0, 2, 3, 1).numpy()


def smooth_pictures(seed, n):
    """Smooth pictures of 16 px."""
    made = Paired(seed, n)
    levels = draws(seed, "levels", torch.arange(n), (3, 4, 4))
    smooth = torch.nn.functional.interpolate(levels, (16, 16), mode="bilinear") * 40 + 128
    made.images = smooth.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return made


class Enlarging(nn.Module):
    """Answers with the condition: regression by bicubic interpolation."""

    def __init__(self):
        super().__init__()
        self.none = nn.Parameter(torch.zeros(()))

    def forward(self, given, t, y=None):
        return given[:, 3:] + self.none


def test_super_resolution_is_judged_image_by_image(features):
    pictures = [smooth_pictures(seed, 60) for seed in (1, 2)]
    reference = measure_reference(*pictures, features, settings(nll_images=0))
    own = Flow(Enlarging(), Regression(OTPath(sigma_min=0.0)), (3, 16, 16), lineage={"weights": "w"}, low_size=4)

    def given(split, start, stop):
        return pairs(pictures[split == "test"], start, stop)

    cell = Cell(solver="euler", nfe=1, samples=50, batch=16, nll_images=0, reference_images=100)
    row = evaluate(own, cell, features, reference, pairs=given)
    whole = given("test", 0, 50)
    due = fidelity(bicubic(whole.low, 16), whole)
    for name in ("psnr", "ssim", "low_psnr"):
        assert row[name] == pytest.approx(float(due[name].mean()), abs=1e-3)
        assert len(row[f"{name}_without"]) == 10 and row[f"{name}_stderr"] > 0
    assert row["low_size"] == 4 and FD in row and row["method"] == "Regression"
    assert row["low_psnr"] > row["psnr"]
    shifted = fidelity(whole.images, whole._replace(images=whole.images.roll(1, 0)))
    assert shifted["psnr"].mean() < due["psnr"].mean()  # each is compared with its own


class Labelled(nn.Module):
    """The exact velocity of the OT path to N(label / 4, 0.1^2); without a label to N(0, 0.1^2)."""

    def __init__(self):
        super().__init__()
        self.inner, self.classes = Scaling(0.1), 3

    def forward(self, x, t, y=None):
        mean = (torch.zeros(len(x)) if y is None else y.clamp(min=0) / 4).view(-1, 1, 1, 1)
        a = t.view(-1, 1, 1, 1)
        return self.inner(x - a * mean, t) + mean


def test_a_guided_cell_draws_guided_samples_and_its_row_says_how(features, reference):
    own = Flow(Labelled(), FlowMatching(OTPath()), (3, 8, 8), ("a", "b", "c"), {"weights": "w"})
    part = parts(Cell(solver="euler", nfe=8, samples=40, batch=40), 0, 0)[0]
    ones = torch.ones(40, dtype=torch.long)

    def states(by=None, **changes):
        cell = Cell(solver="euler", nfe=8, samples=40, batch=40, error_images=40, **changes)
        return sample(own, cell, part, features, ones, guide=by)

    plain, guided = states(), states(guidance=1.0)
    assert plain["states"].mean() == pytest.approx(0.25, abs=0.02)
    assert guided["states"].mean() > 0.4  # twice as far from the mean without label
    assert int(guided["nfe"].max()) == 8  # the budget holds what guidance costs
    alike = Flow(Labelled(), FlowMatching(OTPath()), (3, 8, 8), ("a", "b", "c"), {"weights": "weak"})
    itself = states(alike, guidance=1.0, guide="weak")
    torch.testing.assert_close(itself["states"].mean(), plain["states"].mean(), rtol=0, atol=0.05)
    cell = Cell(solver="euler", nfe=9, samples=40, batch=40, nll_images=0, guidance=1.0, interval=(0.2, 0.8))
    row = evaluate(own, cell, features, reference)
    assert (row["guidance"], row["guidance_interval"], row["guide"]) == (1.0, [0.2, 0.8], "")
    assert cell_of(row) == cell and label(row) == "euler, guidance 1 at 0.2 to 0.8"
    bare = cell.model_copy(update={"guidance": 0.0, "interval": (0.0, 1.0)})
    assert "guidance" not in evaluate(own, bare, features, reference)
    assert row_key("w", cell, "f", "d") != row_key("w", bare, "f", "d")

import io
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from PIL import Image

from fm.paper import figures
from fm.paper.claims import claims
from fm.paper.methods import METHODS
from fm.paper.plan import planned
from fm.paper.reading import nfe

from .conftest import FD


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


@pytest.fixture
def panels(monkeypatch):
    """The panels of the next figure, kept for a look at what is drawn on them."""
    kept = []
    make = figures._figure
    monkeypatch.setattr(figures, "_figure", lambda *a, **k: kept.append(make(*a, **k)) or kept[-1])
    return lambda: kept[-1][1]


def test_each_claim_has_its_figure(plan, trained):
    shown = figures.drawn(plan, trained)
    assert {claim.key for claim in claims(plan, trained)} == shown.keys()
    assert all(opened(png).width > 700 and caption.endswith(".") for png, caption in shown.values())


def test_of_nothing_nothing_is_drawn(plan):
    assert figures.drawn(plan, []) == {}


def test_methods_are_told_apart_in_all_figures():
    looks = [tuple(figures.look(method).values()) for method in METHODS.values()]
    assert len(set(looks)) == len(looks)
    assert figures.look(METHODS["scoreflow-raw"])["color"] == figures.look(METHODS["scoreflow-scaled"])["color"]


def test_every_seed_is_a_dot_and_published_figures_are_crosses(trained, panels):
    figures.dots(trained, nfe, "NFE", figures.published(planned("cifar10"))("nfe"))
    (axes,) = panels()
    assert axes.get_yticklabels()[0].get_text() == "FM w/ OT"
    assert axes.collections[0].get_offsets()[:, 0].tolist() == [68, 70]
    assert axes.collections[1].get_offsets()[:, 0].tolist() == [142]


def test_a_distance_that_is_not_fid_has_no_published_one_beside_it(trained, monkeypatch):
    beside = {}
    monkeypatch.setattr(figures, "dots", lambda trained, value, words, published: beside.update({words: published}))
    figures.drawn(planned("cifar10"), trained)
    assert beside[FD] == {} and beside["bits/dim"]["FM w/ OT"] == 2.99


def test_a_line_for_each_training_in_each_solver(trained, panels):
    figures.swept_curves(trained, figures.errors, "words")
    assert [axes.get_title() for axes in panels()] == ["euler", "midpoint", "rk4"]
    assert all(len(axes.lines) == len(trained) and axes.get_yscale() == "log" for axes in panels())


def test_no_band_of_gradient_norms_reaches_into_another_or_out_of_the_picture(trained, panels):
    """Whatever the norms do: one training's rise a thousandfold at first, another's fall."""

    def early(record, rise):
        return record | {"grad_norm": record["grad_norm"] * rise ** (record["images_seen"] < 9000)}

    rises = (1e3 if i % 2 else 1e-3 for i in range(len(trained)))
    wild = [
        replace(one, records=tuple(early(record, rise) for record in one.records))
        for one, rise in zip(trained, rises, strict=True)
    ]
    figures.stability(wild)
    left, _ = panels()
    spans: dict[str, list[float]] = {}
    for one, line in zip(wild, left.lines, strict=False):
        spans.setdefault(one.method.title, []).extend(line.get_ydata())
    ends = sorted((min(ys), max(ys)) for ys in spans.values())
    assert len(ends) == 7 and all(above[1] < below[0] for above, below in pairwise(ends))
    assert min(left.get_ylim()) < ends[0][0] and ends[-1][1] < max(left.get_ylim()) and left.yaxis_inverted()


def test_strips_stand_a_row_for_each_method():
    strip = torch.randint(0, 256, (3, 2, 3, 8, 8), dtype=torch.uint8)
    one = opened(figures.trajectory_figure({"FM w/ OT": strip}, (0.0, 0.5, 1.0)))
    two = opened(figures.trajectory_figure({"FM w/ OT": strip, "DDPM": strip.numpy()}, (0.0, 0.5, 1.0)))
    assert two.height > one.height and two.width == one.width

import io

import pytest
import torch
from PIL import Image

from fm.report import comparison_figures as figures
from fm.report.figures import COLOURS, GAP


@pytest.fixture
def panels(monkeypatch):
    """The panels of the next figure, kept for a look at what is drawn on them."""
    kept = []
    make = figures._panels
    monkeypatch.setattr(figures, "_panels", lambda count: kept.append(make(count)) or kept[-1])
    return lambda: kept[-1][1]


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


def lines_of(axes):
    return {box.get_label(): box.lines[0] for box in axes.containers}


def test_a_line_for_each_run_at_what_both_were_measured_in(comparison, panels):
    assert opened(figures.curves(comparison, "fd_x", "words", floors=True)).width > 500
    (axes,) = panels()  # dopri5 has one run's value only
    lines = lines_of(axes)
    assert [*lines] == ["ot", "v_p"] and axes.get_title() == "euler, 300 samples"
    assert lines["ot"].get_ydata().tolist() == [500.0, 402.0] and lines["v_p"].get_ydata().tolist() == [501.0, 460.0]
    assert [round(x) for x in lines["ot"].get_xdata()] == [4, 8] and axes.get_yscale() == "log"
    assert [text.get_text() for text in axes.texts] == ["floor: 20"]
    assert lines["ot"].get_color() != lines["v_p"].get_color()


def test_numerical_errors_are_drawn_on_two_logarithmic_axes(comparison, panels):
    figures.curves(comparison, "solution_error", "words")
    (axes,) = panels()
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log") and not axes.texts
    assert lines_of(axes)["ot"].get_ydata()[0] == 0.5


def test_values_below_zero_get_an_even_axis(comparison, panels):
    for row in comparison.runs[0].rows:
        row["fd_x"] = -row["fd_x"]
    figures.curves(comparison, "fd_x", "words")
    assert panels()[0].get_yscale() == "linear"


def test_panels_stand_three_in_a_row():
    figure, grid = figures._panels(4)
    assert len(grid) == len(figure.axes) == 4


def test_runs_past_the_colours_get_another_line():
    first, seventh = figures.style(0), figures.style(len(COLOURS))
    assert first["color"] == seventh["color"] and first["linestyle"] != seventh["linestyle"]


def test_evaluations_over_the_training(panels):
    rows = [{"images_seen": 1000 * i, "nfe": 40 + i, "tolerance": t} for i in range(1, 4) for t in (1e-2, 1e-3)]
    figures.nfe_over_training({"ot": rows, "vp": rows[:2]})
    labels = [line.get_label() for line in panels()[0].lines]
    assert labels == ["ot, tolerance 0.01", "ot, tolerance 0.001", "vp, tolerance 0.01", "vp, tolerance 0.001"]
    assert panels()[0].lines[0].get_ydata().tolist() == [41, 42, 43]


def test_every_tile_of_a_sheet_is_in_its_place_with_its_words():
    tiles = torch.arange(2 * 3 * 2 * 4, dtype=torch.uint8).view(2, 3, 2, 4, 1, 1, 1).expand(2, 3, 2, 4, 3, 8, 8)
    asked = []
    bare = opened(figures.sheet(tiles, tile=8))
    step, block = 8 + GAP, (4 * (8 + GAP) + 6 * GAP, 3 * (8 + GAP) + 6 * GAP)
    for d, r, a, c in ((0, 0, 0, 0), (1, 2, 1, 3), (1, 0, 0, 2)):
        assert (
            bare.getpixel((a * block[0] + c * step + 4, d * block[1] + r * step + 4))[0] == tiles[d, r, a, c, 0, 0, 0]
        )
    assert bare.size == (2 * block[0] - 7 * GAP, 2 * block[1] - 7 * GAP)
    worded = opened(figures.sheet(tiles, ["one", "two", "three"], list("abcd"), lambda *at: asked.append(at) or "1", 8))
    assert worded.width > bare.width and worded.height > bare.height and len(asked) == 48

import io

import pytest
import torch
from matplotlib.collections import PathCollection
from PIL import Image

from fm.report import figures

NAME = "fd_x"


def a_row(solver="euler", nfe=8, method="FM w/ OT", value=400.0, bits=4.2, **values):
    row = {"method": method, "path": "ot", "solver": solver, "nfe": nfe, "tolerance": None, "samples": 300, "seed": 0}
    row |= {NAME: value, f"{NAME}_low": value - 20, f"{NAME}_high": value + 20, f"{NAME}_floor": 18.0}
    return row | {"bits_per_dim": bits, "bits_per_dim_stderr": 0.1, "nll_converged": bits is not None} | values


ROWS = [
    a_row(nfe=4, value=529.0, bits=None),
    a_row(nfe=16),
    a_row("midpoint", nfe=16, bits=None),
    a_row("dopri5", nfe=50, tolerance=1e-3, samples=100, fd_x_floor=40.0),
    a_row(method="untrained", value=2706.0, bits=8.6),
]


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


@pytest.fixture
def axes(monkeypatch):
    """The axes of the next plot, kept for a look at what is drawn on them."""
    kept = []
    make = figures.axes_of_a_page
    monkeypatch.setattr(figures, "axes_of_a_page", lambda: kept.append(make()) or kept[-1])
    return lambda: kept[-1][1]


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_grid_holds_every_pixel_in_its_place():
    images = torch.randint(0, 256, (5, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    sheet = opened(figures.image_grid(images, columns=3, tile=8))
    step = 8 + figures.GAP
    assert sheet.size == (3 * step - figures.GAP, 2 * step - figures.GAP)
    for i in range(5):
        for x, y in ((0, 0), (3, 1)):
            pixel = sheet.getpixel((i % 3 * step + 2 * x, i // 3 * step + 2 * y))
            assert pixel == tuple(images[i, :, y, x].tolist())


def test_grey_images_and_images_larger_than_a_tile():
    assert opened(figures.image_grid(torch.full((1, 1, 4, 4), 7, dtype=torch.uint8), 1, 4)).getpixel((0, 0)) == (
        7,
        7,
        7,
    )
    assert opened(figures.image_grid(torch.zeros(1, 3, 200, 200, dtype=torch.uint8), 1, 96)).size == (200, 200)


def test_trajectory_has_a_row_for_each_sample_and_a_column_for_each_time():
    states = torch.arange(6, dtype=torch.uint8).mul(40).view(3, 2, 1, 1, 1).expand(3, 2, 3, 8, 8)
    strip = opened(figures.trajectory_strip(states, [0.0, 0.5, 1.0], tile=96))
    step = 96 + figures.GAP
    seen = [
        [strip.getpixel((c * step + 40, strip.height - (2 - r) * step + 40))[0] for c in range(3)] for r in range(2)
    ]
    assert seen == [[0, 80, 160], [40, 120, 200]]


def test_loss_is_drawn_against_thousands_of_images_seen(axes):
    records = [{"images_seen": 500 * i, "loss": 1 / i} for i in range(1, 41)] + [{"images_seen": 20500, "rate": 3}]
    figures.loss_curve(records)
    raw, smooth = axes().lines
    assert list(raw.get_xdata()) == [0.5 * i for i in range(1, 41)]
    assert smooth.get_ydata()[-1] == pytest.approx((1 / 39 + 1 / 40) / 2)


def test_distances_carry_interval_floors_and_untrained(axes):
    figures.distance_by_nfe(ROWS, NAME)
    drawn = {c.get_label(): c for c in axes().containers}
    assert list(drawn) == ["euler", "midpoint", "dopri5 at 0.001 (100 samples)"]
    assert [list(v) for v in drawn["euler"].lines[0].get_data()] == [[4, 16], [529, 400]]
    segment = drawn["midpoint"].lines[2][0].get_segments()[0]
    assert segment[:, 1].tolist() == [380, 420]
    expected = ["untrained network", "floor: 300 real training images", "floor: 100 real training images"]
    assert texts(axes()) == expected


def test_an_unconverged_likelihood_has_a_cross_and_no_value(axes):
    figures.bits_by_nfe(ROWS)
    values = [y for c in axes().containers for y in c.lines[0].get_ydata()]
    assert values == [4.2, 4.2]  # euler 16 and dopri5
    crosses = [p for c in axes().collections if isinstance(c, PathCollection) for p in c.get_offsets().tolist()]
    assert {x for x, _ in crosses} == {4, 16} and min(y for _, y in crosses) > 8.6
    assert texts(axes()) == ["x = not converged: no value", "uniform noise: 8 bits/dim", "untrained network"]


def test_a_solvers_error_stands_where_it_was_measured(axes):
    errors = {"solution_error_stderr": 0.01, "nfe_mean": 8.0}
    figures.error_by_nfe(
        [ROWS[0], a_row("heun", solution_error=0.1, **errors), a_row("rk4", solution_error=0.02, **errors)]
    )
    assert [c.get_label() for c in axes().containers] == ["heun", "rk4"] and axes().get_yscale() == "log"
    assert [y for c in axes().containers for y in c.lines[0].get_ydata()] == [0.1, 0.02]


def test_methods_are_told_apart_where_there_are_several(axes):
    figures.distance_by_nfe([*ROWS[:2], a_row(method="DDPM")], NAME)
    assert [c.get_label() for c in axes().containers] == ["DDPM, euler", "FM w/ OT, euler"]


def test_similarities_are_better_the_higher_and_what_is_below_zero_has_no_logarithm(axes):
    named = [a_row() | {"precision_k3_x": 0.5, "precision_k3_x_low": 0.4, "precision_k3_x_high": 0.6}]
    figures.distance_by_nfe(named, "precision_k3_x")
    assert "higher is better" in axes().get_ylabel() and axes().get_yscale() == "linear"
    below = [a_row() | {"kid_x": -0.1, "kid_x_low": -0.2, "kid_x_high": 0.1}]
    figures.distance_by_nfe(below, "kid_x")
    assert "lower is better" in axes().get_ylabel() and axes().get_yscale() == "linear"


def test_every_plot_is_the_same_bytes_again():
    assert figures.distance_by_nfe(ROWS, NAME) == figures.distance_by_nfe(ROWS, NAME)
    assert figures.bits_by_nfe(ROWS[:1])  # no converged row, no untrained one

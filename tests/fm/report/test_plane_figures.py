import io

import pytest
import torch
from PIL import Image

from fm.paths import OTPath, VPPath
from fm.report import picture, plane_figures
from fm.report.plane_figures import CELL, TARGET, conditional_fields, conditional_states, histogram, square

PATHS = {"OT": OTPath(), "VP": VPPath()}


def size(png: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(png)).size


def test_conditional_states_start_at_the_noise_and_end_at_the_target():
    noises = square(4)
    for name, path in PATHS.items():
        states = conditional_states(path, noises, 10)
        assert states.shape == (11, 16, 2)
        assert (states[-1] - torch.tensor(TARGET)).abs().max() < 0.02, name
        assert (states[0] - noises).abs().max() < 0.02, name


def test_the_velocity_field_is_the_slope_of_the_states():
    fields, noises, t, h = conditional_fields(PATHS), square(3).double(), 0.5, 2.0**-12
    target = torch.tensor(TARGET).double().expand(9, 2)
    for name, path in PATHS.items():
        before, now, after = (path.sample(noises, target, torch.tensor(s)).x_t for s in (t - h, t, t + h))
        assert torch.allclose(fields[f"{name}\nvelocity"](now, t), (after - before) / (2 * h), atol=1e-3)
    score = fields["VP\nscore"](noises, t)
    mean, std = PATHS["VP"].mean_std(target, torch.tensor(t))
    x = noises.requires_grad_()
    log_p = (-0.5 * ((x - mean) / std) ** 2).sum()
    assert torch.allclose(score, torch.autograd.grad(log_p, x)[0], rtol=1e-5)


def test_histogram_is_a_density_with_each_point_in_its_cell():
    cells = histogram(torch.tensor([[-2.99, -2.99], [-2.99, -2.99], [2.99, -2.99], [5.0, 0.0]]))
    assert cells[0, 0] * CELL**2 == pytest.approx(0.5) and cells[0, -1] * CELL**2 == pytest.approx(0.25)
    assert cells.sum() * CELL**2 == pytest.approx(0.75)


def test_pictures_are_wide_as_the_page_and_tall_as_their_rows():
    x, truth = square(20), histogram(square(20))
    states = x.expand(6, -1, -1)
    width, tall = size(plane_figures.densities({"a": states, "b": states, "c": states}, [0] * 6, truth))
    assert width == plane_figures.WIDTH * 150
    _, low = size(plane_figures.densities({"a": states}, [0] * 6, truth))
    assert tall > 2.2 * low
    assert size(plane_figures.samples({"OT": {4: x, 8: x}}, x))[0] == width
    assert size(plane_figures.learned_paths({"OT": states, "VP": states}, truth))[0] == width
    assert size(plane_figures.conditional_paths(PATHS, x))[0] == width


def test_a_picture_of_samples_is_a_grid_of_images_or_a_panel_of_points():
    assert size(picture(torch.zeros(1, 3, 96, 96, dtype=torch.uint8))) == (8 * 98 - 2, 96)
    assert size(picture(square(3)))[0] == plane_figures.WIDTH * 150

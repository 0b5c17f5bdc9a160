import math

import pytest
import torch

from fm.errors import ValueUserError
from fm.noise import uniforms
from fm.pixels import BITS_OFFSET, to_pixels, to_unit

LEVELS = torch.arange(256, dtype=torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("u", [0.0, 0.25, 0.5, 1 - 2.0**-16])
def test_every_level_comes_back_exactly(u: float, dtype: torch.dtype) -> None:
    assert torch.equal(to_pixels(to_unit(LEVELS, torch.full((256,), u, dtype=dtype))), LEVELS)


def test_dequantised_levels_come_back_for_any_noise() -> None:
    levels = LEVELS.repeat(400)
    u = uniforms(0, "u", torch.arange(len(levels)), ())
    x = to_unit(levels, u)
    assert torch.equal(to_pixels(x), levels)
    assert x.min() >= -1 and x.max() < 1


def test_the_mean_is_not_biased() -> None:
    # The centre of every cell stands for it: mean over all levels is 0, the mean of the interval.
    assert to_unit(LEVELS, torch.tensor(0.5, dtype=torch.float64)).mean() == 0
    x = torch.linspace(-1, 1, 100_001, dtype=torch.float64)[:-1]
    assert abs(to_pixels(x).double().mean() - 127.5) < 1e-2


def test_a_cell_of_two_over_256_costs_seven_bits() -> None:
    assert math.isclose(BITS_OFFSET, -math.log2(2 / 256))


def test_floats_and_bytes_are_not_confused() -> None:
    with pytest.raises(ValueUserError, match="uint8"):
        to_unit(torch.zeros(3))
    with pytest.raises(ValueUserError, match="floats"):
        to_pixels(LEVELS)


def test_out_of_range_is_clipped() -> None:
    assert to_pixels(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_level_comes_back_for_the_largest_place_that_noise_draws(dtype: torch.dtype) -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    x = to_unit(levels, torch.full((256,), 1 - 2**-24, dtype=dtype))
    assert torch.equal(to_pixels(x), levels) and float(x.max()) < 1


def test_half_precision_is_refused() -> None:
    with pytest.raises(ValueUserError, match="cannot hold 256 levels"):
        to_unit(torch.zeros(1, dtype=torch.uint8), torch.zeros(1, dtype=torch.bfloat16))

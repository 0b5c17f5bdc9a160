"""A velocity under watch: calls, shapes, and the first time it was not finite."""

import math

import pytest
import torch
from torch import Tensor

from fm.errors import NumericalError, ValueUserError
from fm.solvers import SOLVERS, solve
from fm.solvers.field import Field, column, combine
from tests.problems import randn

every_method = pytest.mark.parametrize("method", [name for name, tableau in SOLVERS.items() if not tableau.one_way])


def options(method: str) -> dict:
    return {} if SOLVERS[method].error else {"nfe": 8}


@every_method
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_first_bad_value_is_named_with_sample_and_time(method: str, bad: float) -> None:
    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return torch.where((torch.arange(3) == 1) & (t >= 0.5), bad, -x.T).T

    with pytest.raises(NumericalError, match=r"sample 1: the velocity is not finite at t = 0\.[5-9]") as caught:
        solve(velocity, randn(3, 2), method, **options(method))
    assert isinstance(caught.value, ValueError)


def test_per_sample_names_the_sample_of_the_whole_batch() -> None:
    """Samples 0 to 2 stand still and leave the batch at once; number 3 goes wrong later."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        moving = torch.where(t[:, None] > 0.9, math.nan, torch.sin(60 * x))
        return torch.where(x == 0, 0.0, moving)

    x = torch.tensor([[0.0], [0.0], [0.0], [1.0]])
    with pytest.raises(NumericalError, match=r"sample 3: the velocity is not finite at t = 0\.9"):
        solve(velocity, x, control="per_sample")


@every_method
def test_wrong_shapes_and_dtypes_are_named(method: str) -> None:
    with pytest.raises(ValueUserError, match=r"shapes \[\(3, 1\)\] to a state of shapes \[\(3, 2\)\]"):
        solve(lambda x, t: x[:, :1], randn(3, 2), method, **options(method))
    with pytest.raises(ValueUserError, match=r"dtype torch\.uint8"):
        solve(lambda x, t: x, torch.zeros(3, 2, dtype=torch.uint8), method, **options(method))
    with pytest.raises(ValueUserError, match=r"\(batch, ...\) is due"):
        solve(lambda x, t: x, torch.tensor(1.0), method, **options(method))
    with pytest.raises(ValueUserError, match=r"a state of shape \(2,\)"):
        solve(lambda x, t: x, (randn(3, 2), randn(2)), method, **options(method))


def test_times_keep_float32_under_half_precision_states() -> None:
    seen = []
    solve(lambda x, t: seen.append(t.dtype) or x, randn(2, 2).bfloat16(), "euler", nfe=2)
    assert seen == [torch.float32] * 2


def test_combine_takes_one_step_size_or_one_a_sample() -> None:
    y, k = randn(2, 3), randn(2, 3, seed=1)
    weights = SOLVERS["midpoint"].b
    h = torch.tensor([0.5, 2.0], dtype=torch.float64)
    torch.testing.assert_close(combine((y,), [(y,), (k,)], weights, h)[0], y + h[:, None] * k)
    torch.testing.assert_close(combine((y,), [(y,), (k,)], weights, h[0])[0], y + 0.5 * k)
    assert column(h, y).shape == (2, 1)


def test_keeping_rows_keeps_their_numbers() -> None:
    field = Field(lambda x, t: x, randn(4, 1))
    field.keep(torch.tensor([False, True, False, True]))
    field((randn(2, 1),), torch.tensor(0.0))
    assert field.nfe.tolist() == [0, 1, 0, 1]

"""What a server of published networks answers, without the server."""

from typing import Any

import numpy as np
import pytest

from fm.errors import ValueUserError
from fm.serving import MOST, _load_pyfunc
from tests.fm.test_publishing import made  # noqa: F401  a trained RUN


@pytest.fixture(scope="module")
def server(made: Any) -> Any:  # noqa: F811
    return _load_pyfunc(str(made[1]))


def test_a_request_gets_its_images(server: Any) -> None:
    images = server.predict({"n": [3], "seed": [5], "nfe": np.array([4])})
    assert images.shape == (3, 16, 16, 3) and images.dtype == np.uint8
    expected = server.flow.sample(3, 5, method="midpoint", nfe=4).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(images, expected)
    assert server.predict({"nfe": [3]}).shape == (1, 16, 16, 3)  # an odd count is Euler's


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"n": [MOST + 1]}, "out of range"),
        ({"n": [0]}, "out of range"),
        ({"seed": [-1]}, "out of range"),
        ({"n": [1, 2]}, "several requests"),
        ({"pictures": [1]}, "is asked for pictures; give n, seed, nfe, label"),
        ({"label": ["cat"]}, "not class-conditional"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(server: Any, request_: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueUserError, match=says):
        server.predict(request_)

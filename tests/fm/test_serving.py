"""What a server of published networks answers, without the server."""

import base64
import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fm.errors import UserError, ValueUserError
from fm.flow import Flow
from fm.objectives import Regression
from fm.paths import OTPath
from fm.serving import MOST, Server, _load_pyfunc, example
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
        ({"pictures": [1]}, "is asked for pictures; give n, seed, nfe, label, low"),
        ({"label": ["cat"]}, "not class-conditional"),
        ({"low": ["AAAA"]}, "of no super-resolution; leave it out"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(server: Any, request_: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueUserError, match=says):
        server.predict(request_)


def test_a_super_resolution_network_enlarges_the_picture_of_a_request() -> None:
    class Told(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.none = nn.Parameter(torch.zeros(()))

        def forward(self, given: torch.Tensor, t: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
            return given[:, 3:] + self.none

    server = Server(Flow(Told(), Regression(OTPath(sigma_min=0.0)), (3, 16, 16), low_size=4))
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (10, 200, 90)).save(file, "PNG")
    asked = {"n": [2], "nfe": [1], "low": [base64.b64encode(file.getvalue()).decode()]}
    assert server.predict(asked).reshape(-1, 3).tolist() == [[10, 200, 90]] * 2 * 16 * 16
    assert server.predict(example(4) | {"nfe": 1}).shape == (1, 16, 16, 3) and example(None)["low"] == ""
    for low, says in (
        ("", "has no picture to enlarge; give `low`"),
        ("?", "`low` is no base64"),
        ("AAAA", "cannot be taken"),
    ):
        with pytest.raises(UserError, match=says):
            server.predict(asked | {"low": [low]})

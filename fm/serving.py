"""A published network as a server asks it: requests in, images out. MLflow's pyfunc finds it by `_load_pyfunc`."""

import base64
import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fm.enlarging import small_of
from fm.errors import ValueUserError
from fm.flow import Flow
from fm.recipe import load

MOST = 256  # images of one request
ASKED = {"n": 1, "seed": 0, "nfe": 32}
WORDS = {"label": "", "low": ""}


def example(low_size: int | None) -> dict[str, Any]:
    """A request that a network answers, of small pictures of this size if it enlarges them."""
    file = io.BytesIO()
    if low_size:
        Image.new("RGB", (low_size, low_size), "teal").save(file, "PNG")
    return ASKED | WORDS | {"low": base64.b64encode(file.getvalue()).decode()}


class Server:
    """Draws what a request asks for: `n` images from `seed` with `nfe` evaluations, of the class named `label`."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow

    def predict(self, model_input: Any) -> np.ndarray:
        """Images uint8 (n, height, width, channels) of one request, a table of one row or a mapping; by midpoint, or by
        Euler for an odd `nfe`. A super-resolution network enlarges `low`, a picture's file in base64.

        Raises: ValueUserError for more than one request, an unknown word or a number out of range.
        """
        asked = ASKED | WORDS | _request(model_input)
        if unknown := set(asked) - {*ASKED, *WORDS}:
            mend = f"give {', '.join((*ASKED, *WORDS))}"
            raise ValueUserError(f"is asked for {', '.join(sorted(unknown))}", "request", mend)
        n, seed, nfe = (int(asked[name]) for name in ASKED)
        if not 1 <= n <= MOST or not 1 <= nfe <= 1000 or seed < 0:
            raise ValueUserError("is out of range", "request", f"n 1 to {MOST}, nfe 1 to 1000, seed from 0")
        y = self.flow.labels_of(str(asked["label"]), n) if asked["label"] else None
        low = self._small(str(asked["low"]), n)
        images = self.flow.sample(n, seed, y=y, low=low, method="midpoint" if nfe % 2 == 0 else "euler", nfe=nfe)
        return images.permute(0, 2, 3, 1).cpu().numpy()

    def _small(self, low: str, n: int) -> Tensor | None:
        side = self.flow.low_size
        if side is None and low:
            raise ValueUserError("`low` is asked of a network of no super-resolution", "request", "leave it out")
        if side is None:
            return None
        if not low:
            mend = f"give `low`, a picture of {side} x {side} px in base64"
            raise ValueUserError("has no picture to enlarge", "request", mend)
        try:
            data = base64.b64decode(low, validate=True)
        except ValueError:
            raise ValueUserError("`low` is no base64", "request", "encode the picture's file") from None
        return small_of(data, side, "request").expand(n, -1, -1, -1)


def _request(model_input: Any) -> dict[str, Any]:
    """The one request of a table (its columns) or of a mapping (of values, or arrays of one)."""
    if model_input is None:
        return {}
    columns = {str(name): np.asarray(model_input[name]).ravel() for name in model_input}
    if any(len(values) != 1 for values in columns.values()):
        raise ValueUserError("holds several requests or none", "request", "send one")
    return {name: values[0] for name, values in columns.items() if values[0] is not None}


def _load_pyfunc(path: str) -> Server:
    return Server(load(path, "cuda" if torch.cuda.is_available() else "cpu"))

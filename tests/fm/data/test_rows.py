import io

import numpy as np
import pytest

from fm.data.rows import numbers_of, picture, side_of
from fm.errors import DataError


def test_rows_are_planes(noises):
    (pixels,) = noises(1, side=5)
    row = pixels.transpose(2, 0, 1).reshape(-1)
    assert (np.load(io.BytesIO(picture(row))) == pixels).all()
    assert picture(row.tobytes()) == picture(row)


@pytest.mark.parametrize("shape", [(4, 3 * 31), (4, 0), (4,), (4, 3, 9), (4, 2)])
def test_shapes_that_are_no_pictures(shape):
    with pytest.raises(DataError, match=r"x.npz: its data are uint8 \(4,"):
        side_of(shape, np.dtype(np.uint8), "x.npz")


def test_types_and_labels():
    assert side_of((0, 12), np.dtype(np.uint8), "x") == 2
    with pytest.raises(DataError, match="its data are float32"):
        side_of((4, 12), np.dtype(np.float32), "x")
    assert numbers_of(np.array([3, 1], np.uint8), 2, "x") == numbers_of([3, 1], 2, "x") == [3, 1]
    for wrong in ([1], [1.0, 2.0], [[1], [2, 3]], None, "ab", [True, False]):
        with pytest.raises(DataError, match="labels are not 2 whole numbers"):
            numbers_of(wrong, 2, "x")

import random

import numpy as np
import pytest

from fm.data.tally import Counting, Tally, added


@pytest.mark.parametrize("shape", [(5, 5, 3), (64, 64, 3), (1024, 8, 3)])
def test_sums_are_exact_and_add_up_in_any_order(shape):
    pictures = np.random.default_rng(0).integers(0, 256, (6, *shape), dtype=np.uint8)
    pictures[0] = 255
    counting, parts = Counting(), []
    for number, picture in enumerate(pictures):
        part = Counting()
        for one in (counting, part):
            one.add(picture, number % 2 - 1, {"grey"} if number == 3 else ())
        parts.append(part.tally())
    whole = counting.tally()
    random.Random(0).shuffle(parts)
    assert added(parts) == whole and added([]) == Counting().tally() == Tally()
    assert whole.labels == {-1: 3, 0: 3} and whole.traits == {"grey": 1}
    values = pictures.reshape(-1, 3).astype(object)
    assert whole.sums == values.sum(axis=0).tolist() and whole.squares == (values**2).sum(axis=0).tolist()
    assert whole.mean() == pytest.approx(pictures.reshape(-1, 3).mean(axis=0))
    assert whole.std() == pytest.approx(pictures.reshape(-1, 3).std(axis=0))


def test_one_colour_has_no_deviation():
    counting = Counting()
    counting.add(np.full((9, 9, 3), 77, np.uint8), 0, ())
    tally = counting.tally()
    assert tally.mean() == (77, 77, 77) and tally.std() == (0, 0, 0)

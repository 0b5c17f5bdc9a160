import pytest
import torch

from fm.errors import ValueUserError
from fm.metrics.neighbours import precision, recall
from fm.noise import draws


def rows(seed: int, n: int, d: int = 6) -> torch.Tensor:
    return draws(seed, "rows", torch.arange(n), (d,))


def brute(points: torch.Tensor, centres: torch.Tensor) -> float:
    found = 0
    for point in points:
        for i, centre in enumerate(centres):
            radius = sorted(float((centre - other).norm()) for j, other in enumerate(centres) if i != j)[2]
            if float((centre - point).norm()) <= radius:
                found += 1
                break
    return found / len(points)


def test_both_are_their_definition():
    x, y = rows(1, 30).double() + 0.8, rows(2, 25).double()
    assert precision(x, y) == brute(x, y) < 1
    assert recall(x, y) == brute(y, x) < 1


def test_on_a_line_by_hand():
    reference = torch.tensor([[0.0], [1.0], [2.0], [3.0]])  # each ball reaches to the third neighbour: 3, 2, 2, 3
    samples = torch.tensor([[-2.9], [-3.1], [5.9], [6.1]])
    assert precision(samples, reference) == 0.5


def test_a_part_of_the_law_is_precise_and_forgets_the_rest():
    reference = torch.cat([rows(1, 100), rows(2, 100) + 30])
    samples = rows(3, 200)
    assert precision(samples, reference) > 0.9
    assert recall(samples, reference) < 0.55
    assert precision(reference, reference) == recall(reference, reference) == 1


def test_too_few_rows_for_three_neighbours():
    with pytest.raises(ValueUserError, match="3 rows have no 3 neighbours each; give at least 4"):
        precision(rows(1, 30), rows(2, 3))

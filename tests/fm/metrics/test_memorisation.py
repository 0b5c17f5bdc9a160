import pytest
import torch

from fm.errors import ValueUserError
from fm.metrics.memorisation import memorisation, nearest
from fm.noise import draws

X = draws(0, "training", torch.arange(3000), (5,))


def test_neighbours_are_those_of_all_distances() -> None:
    rows = draws(0, "rows", torch.arange(1100), (5,))
    distances, indices = nearest(rows, X, 3)
    every = (rows[:, None].double() - X[None, :200].double()).norm(dim=2)
    assert torch.allclose(nearest(rows, X[:200], 3)[0], every.sort(1).values[:, :3])
    assert torch.equal(nearest(rows, X[:200], 3)[1], every.argsort(1)[:, :3])
    assert torch.allclose((rows[:, None] - X[indices]).norm(dim=2).double(), distances, atol=1e-5)


def test_copies_of_training_images_are_found_and_samples_of_the_same_law_are_not() -> None:
    heldout, fresh = (draws(0, name, torch.arange(1000), (5,)) for name in ("heldout", "fresh"))
    copies = torch.tensor([7, 2999])
    found = memorisation(torch.cat([fresh, X[copies]]), X, heldout, count=2)
    assert found.samples.tolist() == [1000, 1001] and found.neighbours[:, 0].tolist() == copies.tolist()
    assert (found.distances[:, 0] == 0).all() and (found.distances.diff(dim=1) > 0).all()
    assert found.near == pytest.approx(0.01, abs=0.01)
    assert found.median == pytest.approx(found.heldout_median, rel=0.05)
    learned = memorisation(X[:50] + 1e-4, X, heldout)
    assert learned.near == 1.0 and learned.median < 0.01 * learned.heldout_median and len(learned.samples) == 8


def test_too_few_training_images() -> None:
    with pytest.raises(ValueUserError, match="2 training images are fewer than 3"):
        memorisation(X, X[:2], X)

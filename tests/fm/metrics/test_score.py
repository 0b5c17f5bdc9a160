import pytest
import torch

from fm.errors import ValueUserError
from fm.metrics import inception_score
from fm.noise import draws


def test_certain_and_even_is_the_number_of_classes_and_blind_is_one():
    certain = torch.eye(5).repeat(20, 1)
    assert inception_score(certain) == pytest.approx((5, 0), abs=1e-9)
    assert inception_score(torch.full((100, 5), 0.2)) == pytest.approx((1, 0), abs=1e-9)


def test_it_is_its_definition_over_consecutive_splits():
    p = draws(0, "logits", torch.arange(60), (7,)).double().softmax(1)
    scores = []
    for part in p.split(6):
        mean = part.mean(0)
        scores.append(sum((q * (q / mean).log()).sum() for q in part).div(6).exp())
    mean, sd = inception_score(p)
    assert mean == pytest.approx(float(sum(scores) / 10), rel=1e-12)
    assert sd == pytest.approx(float(torch.stack(scores).var(correction=0) ** 0.5), rel=1e-9)


def test_fewer_samples_than_splits_are_refused():
    with pytest.raises(ValueUserError, match="9 samples do not make 10 splits"):
        inception_score(torch.full((9, 5), 0.2))

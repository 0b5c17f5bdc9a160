import pytest
import torch

from fm.errors import ValueUserError
from fm.metrics import class_probabilities, inception, inception_score, load_features
from fm.metrics.inception import TORCHSCRIPT
from fm.noise import draws
from tests.inception import SmallInception, pictures, published


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


def test_of_pictures_it_is_that_of_inceptions_probabilities_where_the_file_is_there(tmp_path, monkeypatch):
    images = torch.from_numpy(pictures(0, (32, 32), 20)).permute(0, 3, 1, 2)
    file = tmp_path / TORCHSCRIPT.name
    torch.jit.script(SmallInception().eval()).save(file)
    published(monkeypatch, TORCHSCRIPT, file)
    found = class_probabilities(images, inception.CLASSES.load())
    assert found is not None and torch.equal(found, inception.CLASSES.load()(images))
    assert 1 < inception_score(found)[0] < 1008 and inception_score(found)[1] > 0


def test_beside_features_from_another_file_there_is_none():
    images = torch.zeros(20, 3, 8, 8, dtype=torch.uint8)
    assert class_probabilities(images, load_features("random_conv")) is None

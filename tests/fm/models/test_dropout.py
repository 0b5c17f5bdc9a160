"""Dropout by stream position: sound as randomness, the same for a sample in any company, torch's own outside."""

import pytest
import torch
from torch import nn

from fm import noise
from fm.models import UNet
from fm.models.dropout import Dropout, dropout_at, kept
from tests.fm.models.test_unet import SMALL


def masks(positions: torch.Tensor, layers: int = 1, p: float = 0.3, seed: int = 0, shape=(4, 32, 32)) -> torch.Tensor:
    """(layers, batch, elements): 1.0 where dropped."""
    words = noise.words(seed, "dropout", positions, 2 * layers).to(torch.int32).split(2, dim=1)
    return torch.stack([1 - kept(torch.zeros(len(positions), *shape), keys, p).double().flatten(1) for keys in words])


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_each_element_is_dropped_with_probability_p(p: float) -> None:
    (found,) = masks(torch.arange(1000, 1256), p=p)
    deviation = (p * (1 - p)) ** 0.5
    assert abs(found.mean() - p) < 4 * deviation / found.numel() ** 0.5
    for dim, count in ((0, 256), (1, 4096)):  # of each element over samples, of each sample over elements
        scores = (found.mean(dim) - p) * count**0.5 / deviation
        assert abs(scores.square().mean() - 1) < 5 * (2 / len(scores)) ** 0.5 and scores.abs().max() < 7


def test_elements_samples_layers_and_seeds_are_independent() -> None:
    p, count = 0.3, 4096
    found = masks(torch.arange(128), layers=4).sub(p) / (p * (1 - p)) ** 0.5
    other_seed = masks(torch.arange(128), layers=4, seed=1).sub(p) / (p * (1 - p)) ** 0.5
    rows = torch.cat([found, other_seed]).flatten(0, 1)  # 1024 of layer, sample and seed
    between = (rows @ rows.T / count**0.5)[*torch.triu_indices(1024, 1024, 1)]
    assert abs(between.square().mean() - 1) < 0.02 and between.abs().max() < 6.5
    assert between.pow(4).mean() == pytest.approx(3, abs=0.1)  # no few pairs that are alike
    spectrum = torch.fft.rfft(rows, norm="ortho").abs().square().mean(0)[1:-1]  # flat: no lag has a correlation
    assert (spectrum - 1).abs().max() < 6 / 1024**0.5


def test_a_sample_drops_the_same_in_any_company_and_memory_order() -> None:
    layer, at, x = Dropout(0.3), torch.tensor([7, 2**40, 3]), torch.randn(3, 8, 5, 5)
    net = nn.Sequential(nn.Conv2d(8, 8, 1), layer)

    def out(positions: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        with dropout_at(net, 5, positions):
            return layer(x)

    together = out(at, x)
    assert torch.equal(together[1:2], out(at[1:2], x[1:2])) and torch.equal(
        together.flip(0), out(at.flip(0), x.flip(0))
    )
    last = out(at, x.to(memory_format=torch.channels_last))
    assert torch.equal(together, last) and last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(together.double() == 0, out(at, x.double()) == 0)
    stay = together != 0
    torch.testing.assert_close(together[stay], x[stay] / 0.7)


def test_outside_of_a_training_it_is_torchs_own() -> None:
    ours, theirs, x = Dropout(0.3), nn.Dropout(0.3), torch.randn(4, 9)
    net = nn.Sequential(nn.Linear(9, 9), ours)
    with pytest.raises(ZeroDivisionError), dropout_at(net, 0, torch.arange(4)):
        before = torch.get_rng_state()
        assert not torch.equal(ours(x), x)
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(ours.eval()(x), x)
        raise ZeroDivisionError
    outs = []
    for layer in (ours.train(), theirs):
        torch.manual_seed(1)
        outs.append(layer(x))
    assert torch.equal(*outs)


def test_every_layer_of_a_network_has_a_stream_of_its_own() -> None:
    net = UNet(16, **SMALL, dropout=0.3)
    layers = [module for module in net.modules() if isinstance(module, Dropout)]
    with dropout_at(net, 0, torch.arange(5)):
        keys = torch.cat([layer.keys for layer in layers])
    assert len(keys.unique(dim=0)) == 5 * len(layers) > 5
    assert not [name for name in net.state_dict() if "keys" in name]

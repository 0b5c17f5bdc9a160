"""A peer's network that knows Gaussian data exactly must, adapted, know the same data in our pixels on our paths."""

import math

import pytest
import torch
from torch import nn

from fm.errors import SettingsError
from fm.paths import OTPath, VEPath, VPPath
from fm.peers import Peer
from fm.peers.asking import INTERPOLANTS, SCALES, STEPS, decay
from fm.pixels import to_pixels, to_unit

MEAN, SPREAD = 0.2, 0.4  # of the data in the peer's pixels
X = torch.linspace(-2, 2, 24, dtype=torch.float64).view(6, 1, 2, 2)
T = torch.tensor([0.02, 0.3, 0.5, 0.8, 0.95, 0.998], dtype=torch.float64)


def moments(a, sigma, mean, spread):
    """E[x_1 | x] and E[z | x] as functions of x = a x_1 + sigma z."""
    gain = 1 / (a**2 * spread**2 + sigma**2)
    return lambda x: mean + a * spread**2 * gain * (x - a * mean), lambda x: sigma * gain * (x - a * mean)


class VelocityNet(nn.Module):
    """Of straight lines, or of quarter circles."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule

    def forward(self, x, t):
        t, turn = t.view(-1, 1, 1, 1), math.pi / 2
        if self.schedule == "ot":
            data, noise = moments(t, 1 - t, MEAN, SPREAD)
            return data(x) - noise(x)
        data, noise = moments(torch.sin(turn * t), torch.cos(turn * t), MEAN, SPREAD)
        return turn * (torch.cos(turn * t) * data(x) - torch.sin(turn * t) * noise(x))


class NoiseNet(nn.Module):
    """Its noise level between two steps is the one that is interpolated."""

    def __init__(self, schedule):
        super().__init__()
        self.decay = decay(schedule)

    def forward(self, x, step):
        low = step.long().clamp(max=STEPS - 2)
        decayed = torch.lerp(self.decay[low], self.decay[low + 1], step - low).view(-1, 1, 1, 1)
        return moments(torch.exp(-decayed / 2), torch.sqrt(-torch.expm1(-decayed)), MEAN, SPREAD)[1](x)


@pytest.mark.parametrize("pixels", SCALES)
@pytest.mark.parametrize("path", [OTPath(0.0), OTPath(), VPPath(), VEPath()], ids=["ot", "ot 1e-4", "vp", "ve"])
@pytest.mark.parametrize("schedule", INTERPOLANTS)
def test_a_velocity_is_that_of_our_path_to_the_same_data(path, pixels, schedule):
    peer, c = Peer(name="torchcfm", schedule=schedule, pixels=pixels), SCALES[pixels]
    s = path.schedule(T.view(-1, 1, 1, 1))
    data, noise = moments(s.a, s.sigma, MEAN / c, SPREAD / c)
    found = peer.adapt(VelocityNet(schedule), path, "flow_matching")(X, T)
    torch.testing.assert_close(found, s.a_dot * data(X) + s.sigma_dot * noise(X), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("path", [OTPath(0.0), VPPath()], ids=["ot", "vp"])
def test_a_noise_is_that_of_our_path_to_the_same_data(path, schedule):
    peer, c = Peer(name="guided-diffusion", schedule=schedule), 256 / 255
    t = T if path.kind == "vp" else T.clamp(0.05, 0.98)
    s = path.schedule(t.view(-1, 1, 1, 1))
    _, noise = moments(s.a, s.sigma, MEAN / c, SPREAD / c)
    found = peer.adapt(NoiseNet(schedule), path, "noise_matching")(X, t)
    torch.testing.assert_close(found, noise(X), rtol=1e-9, atol=1e-9)


def test_times_past_the_first_and_the_last_step_stay_there():
    net = Peer(name="guided-diffusion", schedule="linear").adapt(nn.Identity(), VPPath(), "noise_matching")
    inside = net.step_of(decay("linear"))
    torch.testing.assert_close(inside, torch.arange(STEPS, dtype=torch.float64))
    assert net.step_of(torch.tensor([0.0, 1e-6, 11.0, torch.inf])).tolist() == [0, 0, STEPS - 1, STEPS - 1]


def test_on_its_own_path_in_our_pixels_a_network_is_asked_as_it_is():
    class Net(nn.Module):
        classes = 3

        def forward(self, x, t, y=None):
            return x * t.view(-1, 1, 1, 1) + (0 if y is None else y.view(-1, 1, 1, 1))

    peer = Peer(name="flow_matching", schedule="ot", pixels="(k + u)/128 - 1")
    adapted, x, y = peer.adapt(Net(), OTPath(0.0), "flow_matching"), X.float(), torch.arange(6) % 3
    torch.testing.assert_close(adapted(x, T.float(), y), Net()(x, T.float(), y), rtol=0, atol=1e-5)
    torch.testing.assert_close(adapted(x, torch.tensor(0.3)), Net()(x, torch.full((6,), 0.3)), rtol=0, atol=1e-5)
    assert adapted.classes == 3


def test_the_pixel_maps_agree_at_every_level_and_decode_to_the_nearest():
    levels = torch.arange(256, dtype=torch.uint8)
    theirs = (levels.double() / 127.5 - 1) / SCALES["k/127.5 - 1"]
    torch.testing.assert_close(
        theirs, to_unit(levels, torch.full((256,), 0.5, dtype=torch.float64)), rtol=0, atol=1e-12
    )
    off = 0.49 / 127.5
    assert torch.equal(to_pixels(theirs + off), levels) and torch.equal(to_pixels(theirs - off), levels)


def test_schedules_end_where_their_papers_say():
    linear, cosine = (torch.exp(-decay(name)) for name in ("linear", "cosine"))
    assert linear[0] == pytest.approx(1 - 1e-4) and linear[-1] == pytest.approx(4.0358e-5, rel=1e-4)
    assert cosine[499] == pytest.approx(0.494, abs=1e-3) and cosine[-1] == pytest.approx(2.43e-9, rel=1e-2)


def test_a_network_is_not_asked_for_what_it_does_not_predict():
    with pytest.raises(SettingsError, match=r"objective: flow_matching asked of a network .* for noise_matching"):
        Peer(name="guided-diffusion", schedule="linear").adapt(nn.Identity(), VPPath(), "flow_matching")

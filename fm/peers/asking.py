"""Networks that were trained elsewhere, asked so that they answer on our paths and our pixel map.

A Gaussian path is known by its noise-to-signal ratio alone: a network of one path answers on another by a change of
time and of scale (Karras et al. 2022, section 2 and appendix B). A peer's pixel map k/127.5 - 1 is ours times 256/255
at each level's centre, so it is a change of scale too: both are exact, and all else is as with a network of our own.
Their files are left to `files.py`.
"""

import math
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from fm.errors import SettingsError
from fm.paths import Path
from fm.settings import Settings

STEPS = 1000  # of guided-diffusion's discrete schedules
SCALES = {"k/127.5 - 1": 256 / 255, "(k + u)/128 - 1": 1.0}  # the peer's data over ours


class Peer(Settings):
    """Whose network it is, and what it was trained on."""

    name: Literal["guided-diffusion", "torchcfm", "flow_matching"] = Field(
        title="Peer", description="the project that trained the network"
    )
    schedule: Literal["ot", "trigonometric", "linear", "cosine"] = Field(
        title="Its schedule",
        description="ot: predicts the velocity of t x_1 + (1 - t) z, t in [0, 1]; trigonometric: that of sin(pi t / 2) "
        "x_1 + cos(pi t / 2) z; linear, cosine: predicts the noise at guided-diffusion's steps 0 (data) to 999 (noise)",
    )
    pixels: Literal["k/127.5 - 1", "(k + u)/128 - 1"] = Field(
        "k/127.5 - 1", title="Its pixel map", description="of levels k in 0..255, with u in [0, 1) for dequantised ones"
    )

    @property
    def objective(self) -> str:
        """The name of what such a network predicts."""
        return "flow_matching" if self.schedule in INTERPOLANTS else "noise_matching"

    @property
    def method(self) -> str | None:
        """What rows call it, where our path that it answers on does not tell the one that it was trained on."""
        return "SI (trigonometric)" if self.schedule == "trigonometric" else None

    def adapt(self, network: nn.Module, path: Path, objective: str) -> nn.Module:
        """The network answering what `objective` asks for, at our states and times on `path`.

        Raises: SettingsError if it predicts something else.
        """
        if objective != self.objective:
            raise SettingsError(
                f"{objective} asked of a network that was trained for {self.objective}",
                where="objective",
                mend=f"leave objective={self.objective}",
            )
        kind = VelocityPeer if self.schedule in INTERPOLANTS else NoisePeer
        return kind(network, path, self)


class Interpolant(NamedTuple):
    """x = a x_1 + sigma z at the peer's time t, and its derivatives there; `scale` leads from data and noise to x."""

    t: Tensor
    a: Tensor
    sigma: Tensor
    a_dot: Tensor | float
    sigma_dot: Tensor | float
    scale: Tensor


def straight(data: Tensor, noise: Tensor) -> Interpolant:
    """Of data and noise in this ratio: x = t x_1 + (1 - t) z."""
    t = data / (data + noise)
    return Interpolant(t, t, 1 - t, 1.0, -1.0, 1 / (data + noise))


def trigonometric(data: Tensor, noise: Tensor) -> Interpolant:
    """Of data and noise in this ratio: x = sin(pi t / 2) x_1 + cos(pi t / 2) z (Albergo & Vanden-Eijnden 2023)."""
    length, turn = torch.hypot(data, noise), math.pi / 2
    a, sigma = data / length, noise / length
    return Interpolant(torch.atan2(data, noise) / turn, a, sigma, turn * sigma, -turn * a, 1 / length)


INTERPOLANTS = {"ot": straight, "trigonometric": trigonometric}


class Adapted(nn.Module):
    """A peer's network and the path of ours that it answers on: model(x, t, y=None) as every network."""

    def __init__(self, network: nn.Module, path: Path, peer: Peer) -> None:
        super().__init__()
        self.network, self.path, self.scale = network, path, SCALES[peer.pixels]

    @property
    def classes(self) -> int | None:
        return getattr(self.network, "classes", None)

    def _ask(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        t = t.reshape(-1)
        return self.network(x, t) if y is None else self.network(x, t, y)


class VelocityPeer(Adapted):
    """A velocity of the peer's interpolant in its pixels -> the velocity of our path in ours.

    With c the scale and (a, sigma) our schedule at t, the peer's time is the one of noise-to-signal ratio c sigma / a.
    On our OT path without sigma_min and at c = 1 a straight one is asked as it is.
    """

    def __init__(self, network: nn.Module, path: Path, peer: Peer) -> None:
        super().__init__(network, path, peer)
        self.interpolant = INTERPOLANTS[peer.schedule]

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """x (batch, ...), t (batch,) or scalar, y (batch,) int, -1 = no label -> velocity like x."""
        s, c = self.path.schedule(t.reshape(-1, *[1] * (x.ndim - 1))), self.scale
        theirs = self.interpolant(s.a, c * s.sigma)
        there = x * c * theirs.scale
        velocity = self._ask(there, theirs.t.expand(len(x), *[1] * (x.ndim - 1)), y)
        # there = a x_1 + sigma z and velocity = a' x_1 + sigma' z, solved for both.
        wronskian = theirs.a * theirs.sigma_dot - theirs.a_dot * theirs.sigma
        data = (theirs.sigma_dot * there - theirs.sigma * velocity) / wronskian
        noise = (theirs.a * velocity - theirs.a_dot * there) / wronskian
        return s.a_dot * data / c + s.sigma_dot * noise


class NoisePeer(Adapted):
    """The noise at guided-diffusion's steps -> the noise at our t, by the step of equal noise-to-signal ratio.

    Steps are whole in the peer's training; between two of them ours is interpolated in -log alpha_bar. States cleaner
    than its step 0 (on the VP path the last 1e-3 of our time) are asked about at step 0.
    """

    decay: Tensor

    def __init__(self, network: nn.Module, path: Path, peer: Peer) -> None:
        super().__init__(network, path, peer)
        self.register_buffer("decay", decay(peer.schedule), persistent=False)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """x (batch, ...), t (batch,) or scalar, y (batch,) int, -1 = no label -> noise like x."""
        s, c = self.path.schedule(t.reshape(-1, *[1] * (x.ndim - 1))), self.scale
        there = c * x / torch.sqrt(s.a**2 + (c * s.sigma) ** 2)
        step = self.step_of(torch.log1p((c * s.sigma / s.a) ** 2)).to(t.dtype)
        return self._ask(there, step.expand(len(x), *[1] * (x.ndim - 1)), y)

    def step_of(self, decayed: Tensor) -> Tensor:
        """The step, with a fraction, at which -log alpha_bar is `decayed`; like it."""
        table, decayed = self.decay, decayed.to(self.decay.dtype)
        after = torch.searchsorted(table, decayed).clamp(1, STEPS - 1)
        share = (decayed - table[after - 1]) / (table[after] - table[after - 1])
        return after - 1 + share.clamp(0, 1)


def decay(schedule: str) -> Tensor:
    """-log alpha_bar at steps 0 to 999, float64: linear (Ho et al. 2020) or cosine (Nichol & Dhariwal 2021, eq. 17).

    alpha_bar is the share of the data's variance that is left: a_t^2 of a VP path.
    """
    if schedule == "linear":
        beta = torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64)
    else:
        at = (torch.arange(STEPS + 1, dtype=torch.float64) / STEPS + 0.008) / 1.008
        left = torch.cos(at * math.pi / 2) ** 2
        beta = (1 - left[1:] / left[:-1]).clamp(max=0.999)
    return -torch.log1p(-beta).cumsum(0)

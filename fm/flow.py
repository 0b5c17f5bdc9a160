"""A trained flow ready for use: draw, encode, decode, interpolate, likelihood. It knows no recipe and no files."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fm.errors import NumericalError, SettingsError, ValueUserError, member
from fm.likelihood import Likelihood, bits_per_dim
from fm.noise import draws
from fm.objectives import Objective
from fm.paths import Path
from fm.pixels import to_pixels, to_unit
from fm.solvers import Solution, solve

NOISE = "sample"  # the stream of initial noise: sample i of any solver, batch size or worker starts from position i
METHODS = {
    "FlowMatching": "FM w/ {path}",
    "NoiseMatching": "DDPM",
    "ScoreMatching": "Score Matching",
    "ScoreFlow": "ScoreFlow",
}
PATHS = {"ot": "OT", "vp": "Diffusion", "ve": "VE"}


class Drawn(NamedTuple):
    """States at t = 1 (n, *shape); the most evaluations that a batch took; their mean over samples."""

    x: Tensor
    nfe: int
    nfe_mean: float


@dataclass(frozen=True)
class Flow:
    """A network with its objective, for samples of `shape` ((channels, height, width) of images, (2,) of points).

    `lineage` says where it comes from (weights, data, recipe, images_seen, ...) and is copied into every result.
    Solver arguments are `method`, `nfe` (fixed steps) or `rtol` and `atol`; labels y are int (n,).
    """

    model: nn.Module
    objective: Objective
    shape: tuple[int, ...]
    classes: tuple[str, ...] | None = None
    lineage: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model.eval().requires_grad_(False)

    @property
    def path(self) -> Path:
        return self.objective.path

    @property
    def method(self) -> str:
        """What the paper's tables call it, such as `FM w/ OT`."""
        kind, path = type(self.objective).__name__, PATHS.get(self.path.kind, self.path.kind)
        output = getattr(self.objective, "output", "")  # what a score network's output means: "raw" or "scaled"
        return METHODS.get(kind, kind + " w/ {path}").format(path=path) + (f" ({output})" if output else "")

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    def velocity(self, x: Tensor, t: Tensor, y: Tensor | None = None, guidance: float = 0.0) -> Tensor:
        """u_t(x) at states (b, *shape) and times t, a scalar or (b,)."""
        return self.objective.velocity(self.model, y=y, guidance=guidance)(x, t)

    def sample(
        self,
        n: int,
        seed: int = 0,
        method: str | None = None,
        nfe: int | None = None,
        y: Tensor | None = None,
        guidance: float = 0.0,
        **options: Any,
    ) -> Tensor:
        """n images, uint8 (n, channels, height, width); of points the float states (n, 2).

        Without a method: midpoint where `nfe` is given, else dopri5. `options` as in `draw`.
        """
        method = method or ("midpoint" if nfe else "dopri5")
        x = self.draw(n, seed, method=method, nfe=nfe, y=y, guidance=guidance, **options).x
        return to_pixels(x) if len(self.shape) == 3 else x

    def draw(
        self,
        n: int,
        seed: int = 0,
        *,
        y: Tensor | None = None,
        guidance: float = 0.0,
        batch: int = 64,
        start: int = 0,
        **solver: Any,
    ) -> Drawn:
        """n states at t = 1 with what they cost. Sample i starts from noise position start + i, whatever the batch.

        An adaptive solver shares its steps within a batch, so there the batch size is part of the result.
        """
        y = self._labels(y, n)
        found = []
        for part in _parts(n, batch):
            z = draws(seed, NOISE, torch.arange(start + part.start, start + part.stop), self.shape, self.device)
            label = None if y is None else y[part]
            found.append(self._solve(self.path.sample_source(z), (0.0, self.path.t_max), label, guidance, **solver))
        per_sample = torch.cat([s.nfe_per_sample for s in found]).double()
        return Drawn(torch.cat([s.x for s in found]), max(s.nfe for s in found), float(per_sample.mean()))

    def trajectory(
        self, n: int, times: Sequence[float], seed: int = 0, *, y: Tensor | None = None, **solver: Any
    ) -> Tensor:
        """The states of n samples on their way, at times in [0, 1]: (len(times), n, *shape); t = 0 is the noise."""
        z = draws(seed, NOISE, torch.arange(n), self.shape, self.device)
        end = self.path.t_max
        at = [min(t, end) for t in times]
        return torch.stack(self._solve(self.path.sample_source(z), (0.0, end), self._labels(y, n), at=at, **solver).at)

    def encode(self, images: Tensor, *, y: Tensor | None = None, **solver: Any) -> Tensor:
        """The noise x_0 that flows to these uint8 images: the same ODE from t = 1 to t = 0."""
        x_1 = to_unit(self._fitting(images).to(self.device))
        return self._solve(x_1, (self.path.t_max, 0.0), self._labels(y, len(images)), **solver).x

    def decode(self, x_0: Tensor, *, y: Tensor | None = None, guidance: float = 0.0, **solver: Any) -> Tensor:
        """The uint8 images that x_0 (n, *shape) flows to: undoes `encode` up to the solver's error."""
        span = (0.0, self.path.t_max)
        return to_pixels(self._solve(x_0.to(self.device), span, self._labels(y, len(x_0)), guidance, **solver).x)

    def interpolate(self, image_a: Tensor, image_b: Tensor, steps: int = 8, **solver: Any) -> Tensor:
        """`steps` images from a to b (each uint8 (c, h, w)) along the great circle between their noises."""
        a, b = self.encode(torch.stack([image_a, image_b]), **solver)
        cosine = torch.dot(a.flatten(), b.flatten()) / (a.norm() * b.norm())
        angle = torch.acos(cosine.clamp(-1, 1)).clamp(min=1e-4)
        at = torch.linspace(0, 1, steps, device=a.device).view(-1, 1, 1, 1)
        return self.decode((torch.sin((1 - at) * angle) * a + torch.sin(at * angle) * b) / torch.sin(angle), **solver)

    def bits_per_dim(
        self, images: Tensor, k: int = 1, *, seed: int = 0, y: Tensor | None = None, batch: int = 64, **options: Any
    ) -> Likelihood:
        """Negative log-likelihood of uint8 images in bits per dimension, image i with noise position i.

        `options` go to `fm.likelihood.bits_per_dim` (method, nfe, rtol, atol, divergence, probe).
        """
        y = self._labels(y, len(self._fitting(images)))
        found = []
        for part in _parts(len(images), batch):
            velocity = self.objective.velocity(self.model, y=None if y is None else y[part])
            positions = torch.arange(part.start, part.stop)
            found.append(
                bits_per_dim(
                    velocity, images[part].to(self.device), self.path, k=k, seed=seed, positions=positions, **options
                )
            )
        return joined(found)

    def labels_of(self, name: str, n: int) -> Tensor:
        """n labels of the class of that name, for `y`.

        Raises: SettingsError for a network without classes, or an unknown class.
        """
        if self.classes is None:
            raise SettingsError("this network is not class-conditional", "class", "train with class_conditional = true")
        return torch.full((n,), member(name, {c: i for i, c in enumerate(self.classes)}, "class"))

    def _solve(
        self, x: Tensor, span: tuple[float, float], y: Tensor | None, guidance: float = 0.0, **solver: Any
    ) -> Solution:
        with torch.no_grad():
            solution = solve(self.objective.velocity(self.model, y=y, guidance=guidance), x, t_span=span, **solver)
        if solution.stopped:
            raise NumericalError(solution.stopped, "sampling", "loosen rtol and atol, or give a larger max_nfe")
        return solution

    def _labels(self, y: Tensor | None, n: int) -> Tensor | None:
        if y is None:
            return None
        if self.classes is None:
            raise ValueUserError("labels given to a network that was trained without", where="y", mend="leave y out")
        if len(y) != n or not (int(y.min()) >= -1 and int(y.max()) < len(self.classes)):
            due = f"labels 0..{len(self.classes) - 1} (-1: none)"
            raise ValueUserError(f"{len(y)} labels given where {n} {due} are due", where="y")
        return y.to(self.device)

    def _fitting(self, images: Tensor) -> Tensor:
        if tuple(images.shape[1:]) != tuple(self.shape):
            raise ValueUserError(
                f"images of {_size(tuple(images.shape[1:]))} given to a network of {_size(self.shape)}",
                mend="use the data set it was trained on, or prepare one of its size",
            )
        return images


def joined(parts: Sequence[Likelihood]) -> Likelihood:
    """The likelihoods of several batches as one; nfe is the mean over images."""
    bpd, bpd_k1, gain = (torch.cat([getattr(p, name) for p in parts]) for name in ("bpd", "bpd_k1", "probe_gain"))
    stderr = float(bpd.double().std() / len(bpd) ** 0.5) if len(bpd) > 1 else math.nan
    return Likelihood(bpd, stderr, sum(p.nfe * len(p.bpd) for p in parts) / len(bpd), parts[0].k, bpd_k1, gain)


def _parts(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))

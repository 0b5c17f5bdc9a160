"""A trained flow ready for use: draw, encode, decode, interpolate, likelihood. It knows no recipe and no files."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fm.enlarging import enlarged
from fm.errors import NumericalError, SettingsError, ValueUserError, member
from fm.likelihood import Likelihood, bits_of_density, bits_per_dim, joined
from fm.noise import draws
from fm.objectives import Objective, Velocity
from fm.optimised import OPTIMISED, best_grids, grid_of
from fm.paths import Path
from fm.pixels import to_pixels, to_unit
from fm.solvers import GRIDS, Solution, solve

NOISE = "sample"  # the stream of initial noise: sample i of any solver, batch size or worker starts from position i
METHODS = {
    "FlowMatching": "FM w/ {path}",
    "MeanFlow": "MeanFlow w/ {path}",
    "NoiseMatching": "DDPM",
    "Regression": "Regression",
    "ScoreMatching": "Score Matching",
    "ScoreFlow": "ScoreFlow",
    "Shortcut": "Shortcut w/ {path}",
}
PATHS = {"ot": "OT", "vp": "Diffusion", "ve": "VE"}


class Drawn(NamedTuple):
    """States at t = 1 (n, *shape) and the evaluations that each took, (n,) int64."""

    x: Tensor
    nfe_per_sample: Tensor

    @property
    def nfe(self) -> int:
        """Of the sample that took most."""
        return int(self.nfe_per_sample.max())

    @property
    def nfe_mean(self) -> float:
        return float(self.nfe_per_sample.double().mean())


@dataclass(frozen=True)
class RoundTrip:
    """What `decode(encode(x))` loses: absolute error over all values, in grey levels of images or the units of points;
    what a sample's solves cost there and back, at most."""

    largest: float
    mean: float
    unit: str
    solver: str
    nfe: tuple[int, int]

    def __str__(self) -> str:
        there, back = self.nfe
        error = f"off by {self.largest:.3g} {self.unit} at most, {self.mean:.3g} on average"
        return f"there and back: {error} ({self.solver}, {there} NFE to the noise, {back} back)"


@dataclass(frozen=True)
class Flow:
    """A network with its objective, for samples of `shape`: images (channels, height, width) or points (2,).

    Images are uint8 outside and floats in [-1, 1) inside; points are floats, the same on both sides. `lineage` says
    where the network comes from (weights, data, recipe, images_seen, ...) and is copied into every result.
    Solver arguments are `method`, `nfe` (fixed steps) or `rtol` and `atol`; without a method it is midpoint where `nfe`
    is given, else dopri5. Labels y are int (n,), or one for all.

    Guidance: `guidance` g samples with v_weak + (1 + g)(v - v_weak) at times in `interval`, where v_weak is the
    network's without label, or that of `guide`, the Flow of a weaker network (`Objective.velocity`).

    Of a super-resolution network `low_size` is the side of its small pictures: each method wants them as `low`, uint8
    (n, channels, low_size, low_size), one for each sample, or one for all. `grids` are those that
    `grid="optimised"` takes, by solver (`fm.optimised.best_grids`).

    Raises: ValueUserError for samples of another shape or dtype; NumericalError as `fm.solvers.solve` does.
    """

    model: nn.Module
    objective: Objective
    shape: tuple[int, ...]
    classes: tuple[str, ...] | None = None
    lineage: dict[str, Any] = field(default_factory=dict)
    low_size: int | None = None
    grids: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model.eval().requires_grad_(False)

    @property
    def path(self) -> Path:
        return self.objective.path

    @property
    def method(self) -> str:
        """What the paper's Table 1 calls it, such as `FM w/ OT`."""
        kind, path = type(self.objective).__name__, PATHS.get(self.path.kind, self.path.kind)
        output = getattr(self.objective, "output", "")  # what a score network's output means: "raw" or "scaled"
        return METHODS.get(kind, kind + " w/ {path}").format(path=path) + (f" ({output})" if output else "")

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    @property
    def of_images(self) -> bool:
        """Whether samples are images, and not points."""
        return len(self.shape) == 3

    def velocity(
        self, x: Tensor, t: Tensor, y: Tensor | None = None, guidance: float = 0.0, low: Tensor | None = None
    ) -> Tensor:
        """u_t(x) at states (b, *shape) and times t in [0, t_max], a scalar or (b,)."""
        self.path.mean_std(self._fitting(x), t)  # refuses other times and dtypes
        return self._velocity(y, self._condition(low, len(x)), guidance)(x, t)

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
        """n images, uint8 (n, channels, height, width); of points the float states (n, 2). `options` as in `draw`; of
        super-resolution `low`, the small pictures."""
        return self._outside(self.draw(n, seed, method=method, nfe=nfe, y=y, guidance=guidance, **options).x)

    def draw(
        self,
        n: int,
        seed: int = 0,
        *,
        y: Tensor | None = None,
        low: Tensor | None = None,
        guidance: float = 0.0,
        interval: tuple[float, float] = (0.0, 1.0),
        guide: "Flow | None" = None,
        batch: int = 64,
        start: int = 0,
        **solver: Any,
    ) -> Drawn:
        """n states at t = 1 with what they cost. Sample i starts from noise position start + i, whatever the batch.

        An adaptive solver shares its steps within a batch, so there the batch size is part of the result.
        """
        for what, count in (("n", n), ("batch", batch)):
            if count < 1:
                raise ValueUserError(f"{count} samples asked for", where=what, mend="ask for 1 or more")
        y, cond = self._labels(y, n), self._condition(low, n)
        found = []
        for part in _parts(n, batch):
            z = draws(seed, NOISE, torch.arange(start + part.start, start + part.stop), self.shape, self.device)
            velocity = self._velocity(y, cond, guidance, interval, guide).rows(part)
            with _numbered_from(part.start):
                found.append(self._solved(velocity, self.path.sample_source(z), (0.0, self.path.t_max), **solver))
        return Drawn(torch.cat([s.x for s in found]), torch.cat([s.nfe_per_sample for s in found]))

    def trajectory(
        self,
        n: int,
        times: Sequence[float],
        seed: int = 0,
        *,
        y: Tensor | None = None,
        low: Tensor | None = None,
        start: int = 0,
        **solver: Any,
    ) -> Tensor:
        """The states of n samples on their way, at times in [0, 1]: (len(times), n, *shape); t = 0 is the noise.

        Sample i starts from noise position start + i; an adaptive solver shares its steps among all n.
        """
        x_0 = self.path.sample_source(draws(seed, NOISE, torch.arange(start, start + n), self.shape, self.device))
        end = self.path.t_max
        at = [min(t, end) if t <= 1 else t for t in times]
        velocity = self._velocity(self._labels(y, n), self._condition(low, n))
        return torch.stack(self._solved(velocity, x_0, (0.0, end), at=at, **solver).at)

    def best_grids(
        self, n: int = 16, seed: int = 0, *, y: Tensor | None = None, low: Tensor | None = None
    ) -> dict[str, Tensor]:
        """What `grids` are, from n noises of their own: `replace(flow, grids=flow.best_grids())`."""
        z = draws(seed, "grid", torch.arange(n), self.shape, self.device)
        velocity = self._velocity(self._labels(y, n), self._condition(low, n))
        return best_grids(velocity, self.path.sample_source(z), self.path)

    def encode(self, images: Tensor, *, y: Tensor | None = None, low: Tensor | None = None, **solver: Any) -> Tensor:
        """The noise x_0 (n, *shape) that flows to these images or points: the same ODE from t = 1 to t = 0."""
        return self._encoded(images, y, low, solver).x

    def decode(
        self,
        x_0: Tensor,
        *,
        y: Tensor | None = None,
        low: Tensor | None = None,
        guidance: float = 0.0,
        interval: tuple[float, float] = (0.0, 1.0),
        guide: "Flow | None" = None,
        **solver: Any,
    ) -> Tensor:
        """The images or points that x_0 (n, *shape) flows to: undoes `encode` up to the solver's error."""
        n = len(x_0)
        velocity = self._velocity(self._labels(y, n), self._condition(low, n), guidance, interval, guide)
        return self._outside(self._decoded(x_0, velocity, solver).x)

    def round_trip(
        self, images: Tensor, *, y: Tensor | None = None, low: Tensor | None = None, **solver: Any
    ) -> RoundTrip:
        """How far decoding the encoded images or points leads past them, as one line to print."""
        there, n = self._encoded(images, y, low, solver), len(images)
        back = self._decoded(there.x, self._velocity(self._labels(y, n), self._condition(low, n)), solver)
        error = (self._outside(back.x).cpu().double() - images.cpu().double()).abs()
        unit, method = "grey levels" if self.of_images else "units", self._chosen(solver)["method"]
        return RoundTrip(float(error.max()), float(error.mean()), unit, method, (there.nfe, back.nfe))

    def interpolate(
        self, image_a: Tensor, image_b: Tensor, steps: int = 8, *, low: Tensor | None = None, **solver: Any
    ) -> Tensor:
        """`steps` images or points from a to b (each of `shape`), both included: (steps, *shape). Of super-resolution
        all belong to one small picture, `low` (1, channels, low_size, low_size).

        Between their noises the direction follows the great circle and the length goes evenly from one to the other.
        """
        ends, between = (None if low is None else low.expand(n, -1, -1, -1) for n in (2, steps))
        a, b = self.encode(torch.stack([image_a, image_b]), low=ends, **solver)
        at = torch.linspace(0, 1, steps, device=a.device).view(-1, *[1] * len(self.shape))
        cosine = torch.dot(a.flatten(), b.flatten()) / (a.norm() * b.norm())
        angle = torch.acos(cosine.clamp(-1, 1)).clamp(1e-4, math.pi - 1e-4)
        direction = (torch.sin((1 - at) * angle) * a / a.norm() + torch.sin(at * angle) * b / b.norm()) / angle.sin()
        return self.decode(((1 - at) * a.norm() + at * b.norm()) * direction, low=between, **solver)

    def bits_per_dim(
        self,
        images: Tensor,
        k: int = 1,
        *,
        seed: int = 0,
        y: Tensor | None = None,
        low: Tensor | None = None,
        batch: int = 64,
        start: int = 0,
        **options: Any,
    ) -> Likelihood:
        """Negative log-likelihood in bits per dimension, image or point i with noise position start + i.

        Of uint8 images by the paper's protocol over k dequantisations (`fm.likelihood.bits_per_dim`: 8 is what uniform
        levels cost). Of points -log2 p(x) / D of the density in their own units, by the exact trace
        (`fm.likelihood.bits_of_density`; k has no meaning there). `options` go to that function. With `low`
        they are those of the image given its small picture.
        """
        y, x = self._labels(y, len(images)), self._fitting(images).to(self.device)
        cond = self._condition(low, len(x))
        if not self.of_images and k != 1:
            raise SettingsError("points are not dequantised", where="k", mend="leave k out")
        measure: Callable[..., Likelihood] = partial(bits_per_dim, k=k) if self.of_images else bits_of_density
        found = []
        for part in _parts(len(x), batch):
            velocity = self._velocity(y, cond).rows(part)
            positions = torch.arange(start + part.start, start + part.stop)
            with _numbered_from(part.start):
                found.append(
                    measure(velocity, x[part], path=self.path, seed=seed, positions=positions, **self._chosen(options))
                )
        return joined(found)

    def labels_of(self, name: str, n: int) -> Tensor:
        """n labels of the class of that name, for `y`.

        Raises: SettingsError for a network without classes, or an unknown class.
        """
        if self.classes is None:
            raise SettingsError("this network is not class-conditional", "class", "train with class_conditional = true")
        return torch.full((n,), member(name, {c: i for i, c in enumerate(self.classes)}, "class"))

    def _velocity(
        self,
        y: Tensor | None,
        cond: Tensor | None = None,
        guidance: float = 0.0,
        interval: tuple[float, float] = (0.0, 1.0),
        guide: "Flow | None" = None,
    ) -> Velocity:
        if guide and guide._kind != self._kind:
            raise ValueUserError(
                "the guide has another shape, classes or objective", where="guide", mend="give a weaker network alike"
            )
        return self.objective.velocity(self.model, y, cond, guidance, interval, guide.model if guide else None)

    @property
    def _kind(self) -> tuple[Any, ...]:
        return self.shape, self.classes, self.objective, self.low_size

    def _encoded(self, images: Tensor, y: Tensor | None, low: Tensor | None, solver: dict[str, Any]) -> Solution:
        x = self._fitting(images).to(self.device)
        x_1 = to_unit(x) if self.of_images else x
        velocity = self._velocity(self._labels(y, len(x)), self._condition(low, len(x)))
        return self._solved(velocity, x_1, (self.path.t_max, 0.0), **solver)

    def _decoded(self, x_0: Tensor, velocity: Velocity, solver: dict[str, Any]) -> Solution:
        return self._solved(velocity, self._fitting(x_0).to(self.device), (0.0, self.path.t_max), **solver)

    def _solved(self, velocity: Velocity, x: Tensor, span: tuple[float, float], **solver: Any) -> Solution:
        with torch.no_grad():
            solution = solve(velocity, x, t_span=span, **self._chosen(solver))
        if solution.stopped:
            raise NumericalError(solution.stopped, "sampling", "loosen rtol and atol, or give a larger max_nfe")
        return solution

    def _chosen(self, solver: dict[str, Any]) -> dict[str, Any]:
        """The solver's arguments with a method, midpoint where `nfe` is given, else dopri5; and an optimised grid."""
        method = solver.get("method") or ("midpoint" if solver.get("nfe") is not None else "dopri5")
        chosen = {**solver, "method": method}
        if isinstance(solver.get("grid"), str):
            member(solver["grid"], dict.fromkeys([*GRIDS, OPTIMISED]), "time grid", where="grid")
        if solver.get("grid") == OPTIMISED:
            if method not in self.grids:
                mend = f"`fm evaluate RUN --solvers {method} --nfe 8 --grids optimised` does"
                raise SettingsError(f"no grid has been optimised for {method}", "grid", mend)
            chosen["grid"] = grid_of(self.grids[method])
        return chosen

    def _outside(self, x: Tensor) -> Tensor:
        """States at t = 1 as the user sees them."""
        return to_pixels(x) if self.of_images else x

    def _labels(self, y: Tensor | None, n: int) -> Tensor | None:
        if y is None:
            return None
        if self.classes is None:
            raise ValueUserError("labels given to a network that was trained without", where="y", mend="leave y out")
        if y.ndim == 0:
            y = y.expand(n)
        if len(y) != n or not (int(y.min()) >= -1 and int(y.max()) < len(self.classes)):
            due = f"labels 0..{len(self.classes) - 1} (-1: none)"
            raise ValueUserError(f"{len(y)} labels given where {n} {due} are due", where="y")
        return y.to(self.device)

    def _condition(self, low: Tensor | None, n: int) -> Tensor | None:
        """The small pictures as the network is told them; none where it is told none."""
        if self.low_size is None:
            if low is not None:
                raise ValueUserError("this network is of no super-resolution", where="low", mend="leave low out")
            return None
        due = (n, self.shape[0], self.low_size, self.low_size)
        if isinstance(low, Tensor) and tuple(low.shape) == (1, *due[1:]):
            low = low.expand(due)
        if not isinstance(low, Tensor) or tuple(low.shape) != due:
            shape = (
                f"small pictures of shape {tuple(low.shape)}" if isinstance(low, Tensor) else f"a {type(low).__name__}"
            )
            given = "no small pictures" if low is None else shape
            mend = "a uint8 tensor, one for each sample or one for all; fm.enlarging.small_picture reads a file"
            raise ValueUserError(f"{given} given where {due} are due", "low", mend)
        return enlarged(low.to(self.device), self.shape[-1])

    def _fitting(self, x: Tensor) -> Tensor:
        """Images, points or states of the network's own shape, one or more."""
        what = "images" if self.of_images else "points"
        if tuple(x.shape[1:]) != tuple(self.shape):
            raise ValueUserError(
                f"{what} of {_size(x.shape[1:])} given to a network of {_size(self.shape)}",
                mend="use the data set it was trained on, or prepare one of its size",
            )
        if not len(x):
            raise ValueUserError(f"0 {what} given", mend="give 1 or more")
        return x


@contextmanager
def _numbered_from(start: int) -> Iterator[None]:
    """A solver numbers the samples of its batch: an error says where that batch begins."""
    try:
        yield
    except NumericalError as error:
        where = f"{error.where} of the batch from {start} on" if start else error.where
        raise NumericalError(error.what, where, error.mend) from None


def _parts(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))

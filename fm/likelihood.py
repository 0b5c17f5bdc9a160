"""Log-likelihood by change of variables, and bits per dimension by the paper's protocol (appendices C and E.2).

Probes and dequantisation follow the image's position (`fm.noise`), so they do not depend on batches or their order.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fm import noise
from fm.arithmetic import full_precision
from fm.errors import NumericalError, SettingsError, ValueUserError, member
from fm.memory import keep_freed
from fm.paths import Path
from fm.pixels import BITS_OFFSET, to_unit
from fm.solvers import Solution, Velocity, solve
from fm.solvers.field import calls_at
from fm.solvers.grids import Grid
from fm.tableaux import tableau

PROBES = ("per_image", "per_draw")


@dataclass(frozen=True)
class Likelihood:
    """Bits per dimension of each image, with what is needed to judge them.

    bpd: (batch,). stderr: standard error of their mean. nfe: network calls of one solve, mean over the draws.
    bpd_k1: (batch,), what one draw gives, mean over the draws. probe_gain: (batch,), what log-mean-exp took from the
    luck of the probes; bpd + probe_gain is the `per_image` value, and it is zero there.
    """

    bpd: Tensor
    stderr: float
    nfe: float
    k: int = 1
    bpd_k1: Tensor | None = None
    probe_gain: Tensor | None = None


def log_prob(
    velocity: Velocity,
    x_1: Tensor,
    path: Path,
    divergence: str = "hutchinson",
    seed: int = 0,
    positions: Tensor | None = None,
    stream: str = "probe",
    **solver: Any,
) -> Tensor:
    """log p(x_1) in nats, (batch,): log p_0(x_0) minus the integral of the divergence, equation (27); differentiable.

    Solved from the data back, equations (31), (32) and (33); with Hutchinson probes equation (34). The source and the
    end of time are the path's. `positions` (batch,) key the Hutchinson probes, by default 0, 1, ...; `solver` goes to
    `fm.solvers.solve` (method, nfe, rtol, atol, control, max_nfe). Under torch.no_grad() memory does not grow with the
    number of evaluations.

    Raises: SettingsError for an unknown divergence; ValueUserError for integer data; NumericalError as the solver does,
    and if it stopped before the end.
    """
    (value,), _ = _log_probs(velocity, x_1, path, divergence, seed, positions, [stream], solver)
    return value


def bits_per_dim(
    velocity: Velocity,
    images: Tensor,
    path: Path,
    k: int = 1,
    divergence: str = "hutchinson",
    probe: str = "per_image",
    seed: int = 0,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    method: str = "dopri5",
    nfe: int | None = None,
    control: str = "joint",
    grid: str | Grid | None = None,
    max_nfe: int = 10_000,
    positions: Tensor | None = None,
) -> Likelihood:
    """Bits per dimension of uint8 images (batch, ...): 7 - log2 mean_k p(x + u_k) / D over k uniform dequantisations.

    Equations (37) and (47). `probe` "per_image" shares one Hutchinson probe among an image's draws, so that the mean
    over draws is of the image alone; "per_draw" takes a fresh one each, as the paper's Table 4 most likely did, and
    comes out lower by luck: `probe_gain` says how much. A fixed-step `method` takes `nfe` for each solve. Draws are
    solved one after another: memory is one batch's. No gradients; float32, TF32 and autocast off.

    Raises: SettingsError for unknown options; ValueUserError for images that are not uint8; NumericalError as
    `log_prob`.
    """
    if probe not in PROBES:
        member(probe, dict.fromkeys(PROBES), "probe rule", where="probe")
    if k < 1 or not isinstance(k, int):
        raise SettingsError(f"{k} dequantisation draws", where="k", mend="give 1 or more")
    keep_freed()
    at = _positions(images, positions)
    solver: dict[str, Any] = {"method": method, "nfe": nfe, "rtol": rtol, "atol": atol, "control": control}
    solver |= {"grid": grid, "max_nfe": max_nfe}
    shared, fresh, counts = [], [], []
    with torch.no_grad(), full_precision(images.device):
        for draw in range(k):
            u = noise.uniforms(seed, f"dequantise/{draw}", at, images.shape[1:], images.device)
            # With a fresh probe per draw the shared one rides along on the same trajectory, as the yardstick.
            streams = ["probe"] if probe == "per_image" or draw == 0 else ["probe", f"probe/{draw}"]
            values, solution = _log_probs(velocity, to_unit(images, u), path, divergence, seed, at, streams, solver)
            shared.append(values[0])
            fresh.append(values[-1])
            counts.append(solution.nfe)
    return _summary(torch.stack(shared), torch.stack(fresh), math.prod(images.shape[1:]), sum(counts) / k)


def bits_of_density(
    velocity: Velocity,
    x_1: Tensor,
    path: Path,
    divergence: str = "exact",
    seed: int = 0,
    positions: Tensor | None = None,
    **solver: Any,
) -> Likelihood:
    """Bits per dimension of float data (batch, ...) as they are: -log2 p(x_1) / D, a density in the data's own units.

    Equation (37) without dequantisation and its offset: it may be negative, halving the unit of length adds 1, and it
    is not comparable with that of pixels. Arguments and errors as in `log_prob`; no gradients.
    """
    with torch.no_grad(), full_precision(x_1.device):
        (nats,), solution = _log_probs(velocity, x_1, path, divergence, seed, positions, ["probe"], solver)
    return _summary(nats[None], nats[None], math.prod(x_1.shape[1:]), solution.nfe, offset=0.0)


def _summary(shared: Tensor, fresh: Tensor, dims: int, nfe: float, offset: float = BITS_OFFSET) -> Likelihood:
    """From log-likelihoods (k, batch) with the shared and with the chosen probes."""

    def bits(nats: Tensor) -> Tensor:
        return offset - nats / (dims * math.log(2))

    k = len(fresh)
    bpd = bits(fresh.logsumexp(0) - math.log(k))
    gain = bits(shared.logsumexp(0) - math.log(k)) - bpd
    stderr = float(bpd.std() / math.sqrt(len(bpd))) if len(bpd) > 1 else math.nan
    return Likelihood(bpd, stderr, nfe, k, bits(fresh).mean(0), gain)


def _log_probs(
    velocity: Velocity,
    x_1: Tensor,
    path: Path,
    divergence: str,
    seed: int,
    positions: Tensor | None,
    streams: list[str],
    solver: dict[str, Any],
) -> tuple[list[Tensor], Solution]:
    """log p(x_1), (batch,), for the probe of each stream, along one trajectory."""
    if not x_1.is_floating_point():
        raise ValueUserError(
            f"data of dtype {x_1.dtype} given where floats are due", mend="use bits_per_dim for uint8 images"
        )
    method = solver.get("method", "dopri5")
    if tableau(method).one_way:
        raise SettingsError(f"{method} only leads from noise to data and has no likelihood", where="method")
    make = member(divergence, DIVERGENCES, "divergence", where="divergence")
    at = _positions(x_1, positions)
    flow = _WithDivergence(velocity, make, [_probe(seed, s, at, x_1) for s in streams])
    start = (x_1, *[x_1.new_zeros(len(x_1)) for _ in streams])
    solution = solve(flow, start, t_span=(path.t_max, 0.0), path=path, **solver)
    if solution.stopped:
        raise NumericalError(solution.stopped, where="likelihood", mend="loosen rtol and atol or raise max_nfe")
    x_0, *integrals = solution.x
    return [path.log_source(x_0) + integral for integral in integrals], solution


def joined(parts: Sequence[Likelihood]) -> Likelihood:
    """The likelihoods of several batches as one; nfe is the mean over images."""
    bpd, bpd_k1, gain = (torch.cat([getattr(p, name) for p in parts]) for name in ("bpd", "bpd_k1", "probe_gain"))
    stderr = float(bpd.double().std() / len(bpd) ** 0.5) if len(bpd) > 1 else math.nan
    return Likelihood(bpd, stderr, sum(p.nfe * len(p.bpd) for p in parts) / len(bpd), parts[0].k, bpd_k1, gain)


def _positions(x: Tensor, positions: Tensor | None) -> Tensor:
    """Given positions, checked, or 0, 1, ..."""
    if positions is None:
        return torch.arange(len(x))
    if positions.shape != (len(x),):
        raise ValueUserError(f"shape {tuple(positions.shape)} given for {len(x)} samples", where="positions")
    return positions


def _probe(seed: int, stream: str, positions: Tensor, x: Tensor) -> Tensor:
    """Rademacher signs like x."""
    return torch.where(noise.uniforms(seed, stream, positions, x.shape[1:], x.device) < 0.5, -1.0, 1.0).to(x.dtype)


def hutchinson(velocity: Tensor, x: Tensor, probes: list[Tensor], keep: bool) -> list[Tensor]:
    """probe^T J probe for each probe, one vector-Jacobian product each, equation (34) (Hutchinson 1990)."""
    return [
        (_vjp(velocity, x, probe, keep or i + 1 < len(probes), keep) * probe).flatten(1).sum(1)
        for i, probe in enumerate(probes)
    ]


def exact(velocity: Tensor, x: Tensor, probes: list[Tensor], keep: bool) -> list[Tensor]:
    """The trace of the Jacobian by D products (for small D), the same for all probes, equation (28)."""
    total, dims = torch.zeros_like(x[:, 0]).flatten(1).sum(1) if x.ndim > 2 else torch.zeros_like(x[:, 0]), x[0].numel()
    for i in range(dims):
        unit = torch.zeros_like(x).flatten(1)
        unit[:, i] = 1
        total = total + _vjp(velocity, x, unit.view_as(x), keep or i + 1 < dims, keep).flatten(1)[:, i]
    return [total] * len(probes)


def _vjp(velocity: Tensor, x: Tensor, cotangent: Tensor, retain: bool, keep: bool) -> Tensor:
    if not velocity.requires_grad:  # a velocity that does not depend on x
        return torch.zeros_like(x)
    (product,) = torch.autograd.grad(
        velocity, x, cotangent, retain_graph=retain, create_graph=keep, allow_unused=True, materialize_grads=True
    )
    return product


@dataclass(frozen=True)
class _WithDivergence:
    """The velocity of (x, integral of the divergence, ...), equation (28): one integral for each probe."""

    velocity: Velocity
    divergence: Callable[[Tensor, Tensor, list[Tensor], bool], list[Tensor]]
    probes: list[Tensor]

    def __call__(self, state: tuple[Tensor, ...], t: Tensor) -> tuple[Tensor, ...]:
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            x = state[0] if keep and state[0].requires_grad else state[0].detach().requires_grad_()
            velocity = self.velocity(x, t)
            if velocity.shape != x.shape:
                raise ValueUserError(f"the velocity answers shape {tuple(velocity.shape)} to {tuple(x.shape)}")
            divergences = self.divergence(velocity, x, self.probes, keep)
        return (velocity, *divergences) if keep else (velocity.detach(), *[d.detach() for d in divergences])

    @property
    def path(self) -> Path | None:
        return getattr(self.velocity, "path", None)

    def network_calls(self, t: Tensor) -> Tensor:
        return calls_at(self.velocity, t)

    def rows(self, index: Tensor) -> "_WithDivergence":
        velocity = self.velocity.rows(index) if hasattr(self.velocity, "rows") else self.velocity
        return replace(self, velocity=velocity, probes=[probe[index] for probe in self.probes])


DIVERGENCES = {"hutchinson": hutchinson, "exact": exact}

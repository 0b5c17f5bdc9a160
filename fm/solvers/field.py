"""A velocity under watch, states as tuples of tensors, and one Runge-Kutta step on them: what both steppers share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from fm.errors import NumericalError, ValueUserError
from fm.tableaux import Tableau

State = tuple[Tensor, ...]
Velocity = Callable[[Any, Tensor], Any]


@dataclass(frozen=True)
class Solution:
    """The state at the end of a solve, and what it cost.

    x: like x_0, at time t. nfe: network calls of the sample that needed most; nfe_per_sample: (batch,) int64 on the
    CPU. at: one state for each time asked for, NaN where a stopped solve did not come so far. stopped: empty, or one
    sentence why the end was not reached; then t says where the solve stands (per sample, what all have reached).
    """

    x: Any
    nfe: int
    nfe_per_sample: Tensor
    t: float
    at: tuple[Any, ...] = ()
    stopped: str = ""


class Field:
    """A velocity on tuple states that counts its calls, checks shapes, and remembers where it was not finite."""

    def __init__(self, velocity: Velocity, x_0: Any) -> None:
        self.velocity, self.single = velocity, isinstance(x_0, Tensor)
        self.state: State = (x_0,) if self.single else tuple(x_0)
        for part in self.state:
            if not part.is_floating_point():
                raise ValueUserError(f"a state of dtype {part.dtype} given where floats are due")
            if part.ndim == 0 or len(part) != len(self.state[0]) or not len(part):
                raise ValueUserError(f"a state of shape {tuple(part.shape)} given where (batch, ...) is due")
            finite = part.detach().reshape(len(part), -1).isfinite().all(1)
            if not finite.all():
                raise NumericalError("the state to start from is not finite", f"sample {int((~finite).int().argmax())}")
        self.time_dtype = torch.promote_types(self.state[0].dtype, torch.float32)
        self.sample = torch.arange(len(self.state[0]))  # numbers of the samples that are still in the batch
        self.nfe = torch.zeros(len(self.sample), dtype=torch.int64)
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __call__(self, state: State, t: Tensor, end: Tensor | None = None) -> State:
        """The velocity at a state and time, or with `end` its mean from there to then."""
        x, calls = (
            state[0],
            calls_at(self.velocity, t.to(self.time_dtype)),
        )  # counted where t is: no wait for the device
        t = t.to(x.device, self.time_dtype)
        if end is None:
            out = self.velocity(self.outer(state), t)
        else:
            out = self.velocity.jump(self.outer(state), t, end.to(x.device, self.time_dtype))  # type: ignore[attr-defined]
        out = (out,) if self.single else tuple(out)
        if [v.shape for v in out] != [s.shape for s in state]:
            shapes = [tuple(v.shape) for v in out], [tuple(s.shape) for s in state]
            raise ValueUserError(f"the velocity answers shapes {shapes[0]} to a state of shapes {shapes[1]}")
        self.nfe[self.sample] += calls
        finite = torch.stack([v.detach().reshape(len(x), -1).isfinite().all(1) for v in out]).all(0)
        self.seen.append((t.detach(), finite))
        return out

    def outer(self, state: State) -> Any:
        """The state as the caller gave it: a tensor or a tuple."""
        return state[0] if self.single else state

    def check(self) -> None:
        """Raises NumericalError for the first call since the last check that was not finite; waits for the device."""
        seen, self.seen = self.seen, []
        if not seen or torch.stack([finite.all() for _, finite in seen]).all():
            return
        t, finite = next((t, finite) for t, finite in seen if not finite.all())
        row = int((~finite).int().argmax())
        when = float(t.expand(len(finite))[row])
        raise NumericalError(f"the velocity is not finite at t = {when:.9g}", where=f"sample {int(self.sample[row])}")

    def keep(self, rows: Tensor) -> None:
        """Goes on with the samples of a mask only."""
        self.sample = self.sample[rows.cpu()]
        if hasattr(self.velocity, "rows"):
            self.velocity = self.velocity.rows(rows)


def calls_at(velocity: Velocity, t: Tensor) -> Tensor:
    """Network calls of an evaluation at t, int64 like t on the CPU: 1, unless the velocity says otherwise."""
    if hasattr(velocity, "network_calls"):
        return torch.as_tensor(velocity.network_calls(t)).cpu().long()
    return torch.ones((), dtype=torch.int64)


def column(value: Tensor, like: Tensor) -> Tensor:
    """() or (batch,) as a factor of a (batch, ...) tensor, in its dtype."""
    value = value.to(like.device, like.dtype)
    return value.reshape(-1, *[1] * (like.ndim - 1)) if value.ndim else value


def combine(y: State, slopes: list[State], weights: Sequence[Fraction], h: Tensor) -> State:
    """y + h * sum of weights times slopes; h () or (batch,)."""
    out = []
    for i, part in enumerate(y):
        factors = torch.tensor([float(w) for w in weights], dtype=part.dtype, device=part.device)
        factors = factors * column(h, part)[..., None]
        out.append(part + (torch.stack([k[i] for k in slopes[: len(weights)]], -1) * factors).sum(-1))
    return tuple(out)


def stage_times(tableau: Tableau, t: Tensor, t_1: Tensor, h: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """The time of each stage, as the velocity is given it."""
    # Just short of the step's end, so that a velocity with a jump there is never asked on the far side.
    short = torch.nextafter(t_1.to(dtype), t.to(dtype))
    return [short if c == 1 else t.to(dtype) + float(c) * h.to(dtype) for c in tableau.c]


def step(
    field: Field, tableau: Tableau, y: State, t: Tensor, t_1: Tensor, h: Tensor, first: State | None = None
) -> tuple[State, list[State]]:
    """One step from t to t_1 = t + h: the state after it, and the slopes of its stages.

    Sums and times are rounded as torchdiffeq rounds them: on a rough velocity one bit changes which steps are accepted.
    """
    times = stage_times(tableau, t, t_1, h, field.time_dtype)
    slopes = [field(y, times[0]) if first is None else first]
    inner = y
    for time, row in zip(times[1:], tableau.a[1:], strict=True):
        inner = combine(y, slopes, row, h)
        slopes.append(field(inner, time))
    return inner if tableau.ends_on_stage else combine(y, slopes, tableau.b, h), slopes

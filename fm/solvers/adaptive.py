"""The adaptive stepper: one step size for the batch (torchdiffeq's, to the evaluation) or one for each sample."""

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from fm.errors import NumericalError, SettingsError
from fm.solvers.field import Field, Solution, State, calls_at, column, combine, step
from fm.tableaux import Tableau

SAFETY, GROWTH, SHRINKAGE = 0.9, 10.0, 0.2


class Adaptive:
    """Error per unit of tolerance, step size by its root (Hairer, Norsett & Wanner 1993, "Solving ODEs I", II.4).

    Jointly, the last step may pass the end, and the quartic of the dense output leads back to it, as in torchdiffeq.
    Where the velocity has no value past the end, and per sample, the last step is cut at the end instead.

    Per sample the size also follows the step before (PI control, Gustafsson 1991), and the last two steps share what is
    left: one sample's error jumps about more than a batch's, and by its root alone up to a third of the steps fail.
    """

    def __init__(
        self,
        field: Field,
        tableau: Tableau,
        tolerance: tuple[float, float],
        span: tuple[float, float],
        at: Sequence[float],
        per_sample: bool,
    ) -> None:
        self.field, self.tableau, (self.rtol, self.atol) = field, tableau, tolerance
        (self.start, self.end), self.per_sample = span, per_sample
        self.sign = 1.0 if self.end >= self.start else -1.0
        self.past_end = not per_sample
        self.before = torch.ones(len(field.sample), dtype=torch.float64, device=field.state[0].device)
        self.asked = [*at, self.end]
        self.saved = [field.state for _ in self.asked]

    def run(self, max_nfe: int) -> Solution:
        if max_nfe < self.tableau.stages + 2:
            least = f"give {self.tableau.stages + 2} or more: so many the first step takes"
            raise SettingsError(f"a cap of {max_nfe} evaluations", where="max_nfe", mend=least)
        field, y, stopped = self.field, self.field.state, ""
        t = torch.full((len(y[0]),) if self.per_sample else (), self.start, dtype=torch.float64, device=y[0].device)
        if self.start != self.end:
            slope = field(y, t)
            field.check()
            h = self._first_step(y, slope, t)
        while self.start != self.end and len(field.sample):
            if int(field.nfe.max()) + self._dearest(t, h) > max_nfe:
                reached = float(t.min() if self.sign > 0 else t.max())
                stopped = f"the cap of {max_nfe} evaluations was met at t = {reached:.6g}, before t = {self.end:.6g}"
                self._stopped(y, t)
                break
            y, slope, t, h = self._step(y, slope, t, h)
        states = [field.outer(state) for state in self.saved]
        nfe, reached = int(field.nfe.max()), reached if stopped else self.end
        return Solution(states[-1], nfe, field.nfe, reached, tuple(states[:-1]), stopped)

    def _dearest(self, t: Tensor, h: Tensor) -> int:
        """Network calls that the next step may take."""
        nodes = torch.stack([t + self.sign * float(c) * h for c in self.tableau.c])
        return self.tableau.stages * int(calls_at(self.field.velocity, nodes).max())

    def _stopped(self, y: State, t: Tensor) -> None:
        """The states reached stand for the end; asked times that a sample did not reach get no number, but NaN."""
        batch, nan = len(y[0]), tuple(torch.full_like(p, math.nan) for p in y)
        for i, asked in enumerate(self.asked[:-1]):
            self.saved[i] = self._put(self.saved[i], nan, (self.sign * (asked - t) > 0).expand(batch))
        self.saved[-1] = self._put(self.saved[-1], y, torch.ones(batch, dtype=torch.bool))

    def _step(self, y: State, slope: State, t: Tensor, h: Tensor) -> tuple[State, State, Tensor, Tensor]:
        """Tries one step; samples that it finishes leave the batch."""
        y_1, slopes, t_1, h = self._attempt(y, slope, t, h)
        with torch.no_grad():
            ratio = self._norm(self._scaled_error(y, y_1, slopes, h))
            good = ratio <= 1
            factor = self._growth(ratio.double(), good)
        if good.any():
            self._save(y, y_1, slopes, t, t_1, h, good)
        y, slope, t, h = _where(good, y_1, y), _where(good, slopes[-1], slope), torch.where(good, t_1, t), h * factor
        done = self.sign * (t - self.end) >= 0
        if done.any():
            kept = ~done.expand(len(y[0]))
            self.field.keep(kept)
            y, slope = tuple(p[kept] for p in y), tuple(p[kept] for p in slope)
            if self.per_sample:
                t, h, self.before = t[kept], h[kept], self.before[kept]
        return y, slope, t, h

    def _growth(self, ratio: Tensor, good: Tensor) -> Tensor:
        """The next step's size over this one's, from the error's ratio to the tolerance."""
        power = 1 / self.tableau.order
        by_root = SAFETY / ratio**power
        if not self.per_sample:
            return by_root.clamp(max=GROWTH).maximum(torch.where(ratio < 1, 1.0, SHRINKAGE))
        steady = SAFETY * self.before ** (0.4 * power) / ratio ** (0.7 * power)
        self.before = torch.where(good, ratio.clamp(min=1e-4), self.before)
        return torch.where(good, steady, by_root).clamp(SHRINKAGE, GROWTH)

    def _attempt(self, y: State, slope: State, t: Tensor, h: Tensor) -> tuple[State, list[State], Tensor, Tensor]:
        """The step's end state, slopes, end time and size; cut at the end of the span where it must be."""
        if self.per_sample:
            left = self.sign * (self.end - t)
            h = torch.where((left > h) & (left < 2 * h), left / 2, h)
        passes = self.sign * (t + self.sign * h - self.end) > 0
        cut = passes & (not self.past_end)
        size = torch.where(cut, self.sign * (self.end - t), h)
        t_1 = torch.where(cut, self.end, t + self.sign * size)
        stuck = (t_1 == t).expand(len(y[0]))
        if stuck.any():
            row = int(stuck.int().argmax())
            what = f"the step size vanished at t = {float(t.expand(len(y[0]))[row]):.9g}"
            where = f"sample {int(self.field.sample[row])}"
            raise NumericalError(what, where=where, mend="loosen rtol and atol, or use a fixed-step method")
        try:
            y_1, slopes = step(self.field, self.tableau, y, t, t_1, self.sign * size, slope)
            self.field.check()
        except NumericalError:
            if not (self.past_end and passes.all()):
                raise
            self._stay_inside()
            return self._attempt(y, slope, t, h)
        return y_1, slopes, t_1, size

    def _stay_inside(self) -> None:
        """The velocity has no value past the end: from here on steps are cut there."""
        self.past_end, self.field.seen = False, []

    def _first_step(self, y: State, slope: State, t: Tensor) -> Tensor:
        """The first step's size, at the cost of one evaluation, which may look past the end too."""
        try:
            h = self._guess(y, slope, t)
            self.field.check()
        except NumericalError:
            if not self.past_end:
                raise
            self._stay_inside()
            h = self._guess(y, slope, t)
            self.field.check()
        return h

    @torch.no_grad()
    def _guess(self, y: State, slope: State, t: Tensor) -> Tensor:
        """Hairer, Norsett & Wanner 1993, II.4, "starting step size"."""
        scale = tuple(self.atol + p.abs() * self.rtol for p in y)
        size, speed = self._norm(_over(y, scale)), self._norm(_over(slope, scale))
        h = torch.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed)
        if not self.past_end:
            h = h.clamp(max=abs(self.end - self.start))
        moved = combine(y, [slope], (Fraction(1),), self.sign * h)
        slope_1 = self.field(moved, t + self.sign * h.double())
        change = tuple(q - p for p, q in zip(slope, slope_1, strict=True))
        steepest = speed.maximum(self._norm(_over(change, scale)) / h)
        by_bend = (0.01 / steepest) ** (1 / self.tableau.order)
        return torch.minimum(100 * h, torch.where(steepest <= 1e-15, (h * 1e-3).clamp(min=1e-6), by_bend)).double()

    def _scaled_error(self, y: State, y_1: State, slopes: list[State], h: Tensor) -> State:
        error = combine(tuple(torch.zeros_like(p) for p in y), slopes, self.tableau.error, self.sign * h)
        larger = (p.abs().maximum(q.abs()) for p, q in zip(y, y_1, strict=True))
        return _over(error, tuple(self.atol + self.rtol * p for p in larger))

    def _norm(self, state: State) -> Tensor:
        """Root mean square, over all or per sample; of a tuple the largest part's."""
        dims = (1,) if self.per_sample else (0, 1)
        return torch.stack([p.reshape(len(p), -1).square().mean(dims).sqrt() for p in state]).amax(0)

    def _save(self, y: State, y_1: State, slopes: list[State], t: Tensor, t_1: Tensor, h: Tensor, good: Tensor) -> None:
        """The states at the asked times inside an accepted step."""
        batch, h = len(y[0]), self.sign * h
        for i, asked in enumerate(self.asked):
            inside = (good & (self.sign * (asked - t) > 0) & (self.sign * (t_1 - asked) >= 0)).expand(batch)
            if inside.any():
                theta = (asked - t) / (t_1 - t)
                middle = combine(y, slopes, self.tableau.middle, h)
                value = _quartic(y, y_1, middle, slopes[0], slopes[-1], h, theta)
                self.saved[i] = self._put(self.saved[i], _where(theta == 1, y_1, value), inside)

    def _put(self, full: State, part: State, rows: Tensor) -> State:
        """`full` with the rows of `part` that a mask picks in their samples' places."""
        index = self.field.sample[rows.cpu()].to(full[0].device)
        return tuple(f.index_copy(0, index, p[rows.to(p.device)]) for f, p in zip(full, part, strict=True))


def _quartic(y: State, y_1: State, middle: State, slope: State, slope_1: State, h: Tensor, theta: Tensor) -> State:
    """The quartic through both ends with their slopes and through the middle, at theta in [0, 1]."""
    out = []
    for p, q, m, k_0, k_1 in zip(y, y_1, middle, slope, slope_1, strict=True):
        size, x = column(h, p), column(theta, p)
        a = 2 * size * (k_1 - k_0) - 8 * (q + p) + 16 * m
        b = size * (5 * k_0 - 3 * k_1) + 18 * p + 14 * q - 32 * m
        c = size * (k_1 - 4 * k_0) - 11 * p - 5 * q + 16 * m
        out.append(p + x * (size * k_0 + x * (c + x * (b + x * a))))
    return tuple(out)


def _where(mask: Tensor, yes: State, no: State) -> State:
    if mask.all():
        return yes
    return tuple(torch.where(mask.reshape(-1, *[1] * (p.ndim - 1)), p, q) for p, q in zip(yes, no, strict=True))


def _over(state: State, scale: State) -> State:
    return tuple(p / s for p, s in zip(state, scale, strict=True))

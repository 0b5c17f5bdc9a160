"""Solvers as data: exact Butcher tableaux (and what is known of the others), and nothing that runs them.

dopri5 is Dormand & Prince 1980, its embedded method and its middle are Shampine 1986.
"""

from dataclasses import dataclass
from fractions import Fraction

from fm import plugins
from fm.errors import SettingsError

Row = tuple[Fraction, ...]


@dataclass(frozen=True)
class Tableau:
    """An explicit method: nodes c, stages a, weights b; it adapts if it has `error` weights (b minus the embedded b).

    `middle` are the weights of the state half a step on, for dense output; `grid` is the time grid it takes by default;
    `one_way` says that it only leads from noise to data, and has no likelihoods.
    """

    order: int
    c: Row
    a: tuple[Row, ...]
    b: Row
    error: Row = ()
    middle: Row = ()
    grid: str = "uniform"
    one_way: bool = False

    def __post_init__(self) -> None:
        sizes = {len(self.c), len(self.a), len(self.b)}
        explicit = all(len(row) <= i and sum(row) == c for i, (row, c) in enumerate(zip(self.a, self.c, strict=False)))
        if len(sizes) > 1 or not explicit or sum(self.b) != 1:
            mend = "as many c, a and b; row i of a with at most i numbers that sum to c; b that sums to 1"
            raise SettingsError("no tableau of an explicit method that is exact for constants", mend=mend)

    @property
    def ends_on_stage(self) -> bool:
        """Whether the last stage stands at the step's end, so that it is the next step's first."""
        return len(self.b) > 1 and self.a[-1] == self.b[:-1]

    @property
    def stages(self) -> int:
        """Evaluations of one step, a stage shared with the step before not counted."""
        return len(self.b) - self.ends_on_stage


@dataclass(frozen=True)
class Multistep:
    """A method that reuses earlier evaluations: one new one a step."""

    order: int
    stages: int = 1
    error: Row = ()
    grid: str = "log_snr"
    one_way: bool = True


@dataclass(frozen=True)
class Jumps:
    """Steps by the mean velocity that a network predicts for them (MeanFlow, Shortcut): one evaluation each, and no
    error that smaller steps would mend."""

    order: int = 1
    stages: int = 1
    error: Row = ()
    grid: str = "uniform"
    one_way: bool = True


Solver = Tableau | Multistep | Jumps


def _row(*numbers: str | int) -> Row:
    return tuple(Fraction(n) for n in numbers)


EULER = Tableau(1, _row(0), (_row(),), _row(1))
MIDPOINT = Tableau(2, _row(0, "1/2"), (_row(), _row("1/2")), _row(0, 1))
HEUN = Tableau(2, _row(0, 1), (_row(), _row(1)), _row("1/2", "1/2"))
RK4 = Tableau(
    4,
    _row(0, "1/2", "1/2", 1),
    (_row(), _row("1/2"), _row(0, "1/2"), _row(0, 0, 1)),
    _row("1/6", "1/3", "1/3", "1/6"),
)

_B = _row("35/384", 0, "500/1113", "125/192", "-2187/6784", "11/84", 0)
_EMBEDDED = _row("1951/21600", 0, "22642/50085", "451/720", "-12231/42400", "649/6300", "1/60")
DOPRI5 = Tableau(
    order=5,
    c=_row(0, "1/5", "3/10", "4/5", "8/9", 1, 1),
    a=(
        _row(),
        _row("1/5"),
        _row("3/40", "9/40"),
        _row("44/45", "-56/15", "32/9"),
        _row("19372/6561", "-25360/2187", "64448/6561", "-212/729"),
        _row("9017/3168", "-355/33", "46732/5247", "49/176", "-5103/18656"),
        _B[:-1],
    ),
    b=_B,
    error=tuple(b - e for b, e in zip(_B, _EMBEDDED, strict=True)),
    middle=_row(
        "6025192743/60171106304",
        0,
        "51252292925/130801643196",
        "-2691868925/90256659456",
        "187940372067/3189068634112",
        "-1776094331/39487288512",
        "11237099/470086768",
    ),
)

SOLVERS: dict[str, Solver] = {
    "euler": EULER,
    "midpoint": MIDPOINT,
    "heun": HEUN,
    "rk4": RK4,
    "dopri5": DOPRI5,
    "dpm2m": Multistep(order=2),
    "jump": Jumps(),
}


def tableau(name: str, where: str = "method") -> Solver:
    """The solver of that name, or at that import path.

    Raises: SettingsError that names the nearest.
    """
    due = plugins.Due("a fm.tableaux.Tableau", lambda found: isinstance(found, Tableau))
    return plugins.member(name, SOLVERS, due, "solver", where)

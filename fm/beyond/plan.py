"""What is trained beyond the paper, and which of its measurements make a line of the table."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from fm.errors import SettingsError, member
from fm.optimised import MOST, OPTIMISED
from fm.paper.methods import OT, DataSet, Method, known
from fm.paper.plan import Member, Plan, given_beside
from fm.paper.plan import planned as of_the_paper
from fm.recipe import Recipe

# The table asks for samples and bits/dim alone.
ASKED = {"evaluation.error_images": 0, "evaluation.nll_training_images": 0, "evaluation.along": None}
BUDGETS = (1, 2, 4, 8, 16, 50)
SHOWN_BUDGETS = (1, 2, 4)  # of pictures
FM = ("flow_matching", "ot")
JUMPING = ("mean_flow", "shortcut")
METHODS = {
    method.key: method
    for method in (
        Method(OT, "fm-ot", *FM),
        Method("Minibatch OT", "minibatch-ot", *FM, changes={"training.coupling": "minibatch_ot"}),
        Method("Persistent coupling", "persistent-ot", *FM, changes={"training.coupling": "persistent_ot"}),
        Method("Logit-normal times", "logit-normal", *FM, changes={"training.times": "logit_normal"}),
        Method("Skewed times", "skewed", *FM, changes={"training.times": "skewed"}),
        Method("Stratified times", "stratified", *FM, changes={"training.stratify": True}),
        Method(
            "Persistent coupling, skewed times",
            "persistent-skewed",
            *FM,
            changes={"training.coupling": "persistent_ot", "training.times": "skewed"},
        ),
        Method("MeanFlow", "mean-flow", "mean_flow", "ot"),
        Method("Shortcut", "shortcut", "shortcut", "ot"),
        Method("Reflow", "reflow", *FM, drawn_by="fm-ot"),
    )
}


class Line(NamedTuple):
    """A line of the table: a training, and how it is solved at each budget. A guided step takes two evaluations: of the
    network, and of a weaker one that it is led away from."""

    title: str
    key: str
    solver: str = "euler"
    grid: str = ""
    guidance: float = 0.0

    @property
    def plain(self) -> bool:
        """Whether it is by Euler as it stands: the line that tells of the training itself, too."""
        return (self.solver, self.grid, self.guidance) == ("euler", "", 0.0)


LINES = (
    Line(OT, "fm-ot"),
    Line(f"{OT}, EDM's grid", "fm-ot", grid="edm"),
    Line(f"{OT}, optimised grid", "fm-ot", grid=OPTIMISED),
    Line(f"{OT}, multistep", "fm-ot", "dpm2m"),
    Line(f"{OT}, multistep, EDM's grid", "fm-ot", "dpm2m", "edm"),
    Line(f"{OT}, multistep, optimised grid", "fm-ot", "dpm2m", OPTIMISED),
    *(Line(f"{OT}, autoguidance {by:g}", "fm-ot", guidance=by) for by in (0.5, 1.0)),
    *(Line(one.name, one.key) for one in METHODS.values() if one.objective == "flow_matching" and one.name != OT),
    *(Line(f"{METHODS[key].name}, jumps", key, "jump") for key in ("mean-flow", "shortcut")),
    *(Line(f"{METHODS[key].name}, Euler", key) for key in ("mean-flow", "shortcut")),
)


def planned(
    dataset: str, scale: str = "mini", seeds: int = 2, methods: Sequence[str] = (), changes: Iterable[str] = ()
) -> Plan:
    """The trainings of the table, all of the first seed before the second; `changes` are of every recipe.

    Raises: SettingsError that names the nearest data set, scale or method, or the setting that is wrong.
    """
    of, made = known(dataset, scale, ()), tuple(changes)
    chosen = [member(key, METHODS, "method", where="--methods") for key in dict.fromkeys(methods or METHODS)]
    chosen.sort(key=lambda method: bool(method.drawn_by))  # after those that draw
    for method in chosen:
        if method.drawn_by and METHODS[method.drawn_by] not in chosen:
            mend = f"name {method.drawn_by} too"
            raise SettingsError(f"{method.key} is trained on what {method.drawn_by} draws", "--methods", mend)
    given_beside(made, (*ASKED, "evaluation.grid", *(own for one in METHODS.values() for own in one.changes)))
    # A jump's target would be of another network than its answer, and all have the same.
    without = ("model.dropout=0",) if any(one.objective in JUMPING for one in chosen) else ()
    base = of_the_paper(dataset, scale, seeds, ("fm-ot",), (*without, *made)).recipe
    if base.class_conditional:
        raise SettingsError("some of these methods know no classes", "class_conditional", "leave it false")
    members = [
        Member(one, seed, _recipe(base, of, one, seed), tuple(guided_points(one.key)))
        for seed in range(seeds)
        for one in chosen
    ]
    return Plan(of, scale, seeds, tuple(chosen), tuple(members), made)


def _recipe(base: Recipe, of: DataSet, method: Method, seed: int) -> Recipe:
    adaptive = [point for point in base.model_dump(mode="json")["evaluation"]["grid"] if point["tolerance"] is not None]
    own: dict[str, Any] = {"objective": method.objective, "path": method.path, "training.seed": seed}
    own |= method.changes | ASKED | {"evaluation.grid": [*points(method.key), *adaptive]}
    return Recipe.changed(base.model_dump(mode="json"), {"name": f"{of.key}-beyond"} | own, of.key)


def points(key: str) -> list[dict[str, Any]]:
    """Each budget of each of a training's lines but guided ones; of one step every grid is the same, and none is
    optimised for many."""
    lines = [line for line in LINES if line.key == key and not line.guidance]
    return [
        {"solver": line.solver, "nfe": nfe} | ({"grid": line.grid} if line.grid else {})
        for line in lines
        for nfe in BUDGETS
        if not line.grid or (nfe > 1 and (nfe <= MOST or line.grid != OPTIMISED))
    ]


def guided_points(key: str) -> list[dict[str, Any]]:
    """Each budget of a training's guided lines that makes whole steps: of two evaluations each."""
    guided = [line for line in LINES if line.key == key and line.guidance]
    return [
        {"solver": line.solver, "nfe": nfe, "guidance": line.guidance}
        for line in guided
        for nfe in BUDGETS
        if nfe % 2 == 0
    ]

import pytest

from fm.beyond.plan import BUDGETS, LINES, METHODS, planned
from fm.cells import cells
from fm.errors import SettingsError
from fm.lineage import differences
from fm.optimised import MOST, OPTIMISED
from fm.solvers.fixed import steps


def test_each_training_differs_from_ot_in_its_own_setting_alone() -> None:
    plan = planned("photos", seeds=2)
    assert [member.folder for member in plan.members][:2] == ["fm-ot-seed0", "minibatch-ot-seed0"]
    assert len(plan.members) == 2 * len(METHODS)
    ot = plan.members[0].recipe
    own = {}
    for member in plan.members[: len(METHODS)]:
        told = differences(ot.training_values(), member.recipe.training_values())
        own[member.method.key] = {part.split(" ")[0] for part in told}
    assert own["fm-ot"] == set() and own["mean-flow"] == own["shortcut"] == {"objective"}
    assert own["reflow"] == set()  # but for what it is trained on, which the flow knows
    assert own["minibatch-ot"] == own["persistent-ot"] == {"training.coupling"}
    both = {part for part in own["persistent-skewed"] if not part.startswith("training.times")}
    assert both == {"training.coupling"} < own["persistent-skewed"]
    assert own["stratified"] == {"training.stratify"}
    assert all(part.startswith("training.times") for key in ("logit-normal", "skewed") for part in own[key])
    for member in plan.members:
        member.recipe.check(2)


def test_every_line_is_measured_at_every_budget() -> None:
    for member in planned("photos", seeds=1).members:
        guided = [(point["guidance"], point["nfe"]) for point in member.guided]
        each = [(by, nfe) for by in (0.5, 1.0) for nfe in (2, 4, 8, 16, 50)]
        assert guided == (each if member.method.key == "fm-ot" else [])
        assert all(steps(point["solver"], point["nfe"], cost=2) for point in member.guided)  # of whole steps
        measured = {(cell.solver, cell.grid, cell.nfe) for cell in cells(member.recipe.evaluation)}
        for line in (line for line in LINES if line.key == member.method.key and not line.guidance):
            few = [nfe for nfe in BUDGETS if line.grid != OPTIMISED or nfe <= MOST]
            assert {(line.solver, line.grid if nfe > 1 else "", nfe) for nfe in few} <= measured
        assert any(cell.solver == "dopri5" and cell.nll_images for cell in cells(member.recipe.evaluation))
    assert {line.key for line in LINES} == set(METHODS)


def test_what_the_table_compares_is_not_changed() -> None:
    plan = planned("photos", methods=["mean-flow"], changes=["training.total_images=128"])
    assert [member.recipe.training.total_images for member in plan.members] == [128, 128]
    for change in (
        "training.coupling=minibatch_ot",
        "training.stratify=true",
        "evaluation.grid=[]",
        "objective=shortcut",
    ):
        with pytest.raises(SettingsError, match="is what the"):
            planned("photos", changes=[change])
    with pytest.raises(SettingsError, match="--methods: reflow is trained on what fm-ot draws; name fm-ot too"):
        planned("photos", methods=["reflow"])
    assert [m.method.key for m in planned("photos", seeds=1, methods=["reflow", "fm-ot"]).members] == [
        "fm-ot",
        "reflow",
    ]
    with pytest.raises(SettingsError, match="did you mean 'mean-flow'"):
        planned("photos", methods=["meanflow"])


def test_networks_of_jumps_and_those_beside_them_drop_nothing_out() -> None:
    """Preset emoji64, the full scale, drops out a tenth."""
    for methods, dropout in (((), 0.0), (("fm-ot", "skewed"), 0.1)):
        plan = planned("emoji64", "full", seeds=1, methods=methods)
        assert {member.recipe.model.dropout for member in plan.members} == {dropout}  # type: ignore[union-attr]
        for member in plan.members:
            member.recipe.check(2)

"""What the comparison will cost: one network measured, products for every training, and the room that it takes."""

from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from fm.beyond.plan import planned as planned_beyond
from fm.cells import Cell
from fm.errors import MachineError, SettingsError
from fm.estimating.measuring import Data, Measured
from fm.estimating.parts import expected_nfe
from fm.footprint import Footprint, checkpoint_bytes
from fm.models.cost import h100_hours
from fm.paper import estimating as module
from fm.paper.estimating import PaperEstimate, check_room, check_time, counted, estimate_paper, published
from fm.paper.plan import Plan, planned

DATA = Data("", 500, (3, 32, 32), 0)
DISK = {"DATA": (2**20, "500 pictures")}
FEW = ["training.total_images=640", "training.save_images=320", "training.keep_every_images=320"]
FEW += ["evaluation.samples=40", "evaluation.reference_images=40", "evaluation.error_images=8"]
Usage = namedtuple("Usage", "total used free")


def plan(seeds: int = 2, methods: Any = (), changes: Any = ()) -> Plan:
    return planned("photos", seeds=seeds, methods=methods, changes=[*FEW, *changes])


def estimated(monkeypatch: pytest.MonkeyPatch, of: Plan, workers: int = 1) -> PaperEstimate:
    need = Footprint(0, 0, 0, 0)
    found = Measured("CPU", 1, 64, 64, 9, 0.5, 0.5, 0.01, 0.03, 0.02, 0.1, need, 5 * 10**8, 7.0)
    monkeypatch.setattr(module, "measured", lambda recipe, data, known, say: found)
    known, _ = counted(of, DATA, workers)
    return estimate_paper(of, DATA, known, Path("not/there/yet"), DISK)


def test_twice_the_seeds_take_twice_as_much_but_real_images_are_described_once(monkeypatch) -> None:
    one, two = (estimated(monkeypatch, plan(seeds)) for seeds in (1, 2))
    a, b = one.values, two.values
    assert len(a["members"]) == 7 and len(b["members"]) == 14
    real = one.shared.hours
    assert real == pytest.approx((40 + 40) * 0.02 / 3600)
    assert b["training_hours"] == pytest.approx(2 * a["training_hours"])
    assert b["evaluation_hours"] - real == pytest.approx(2 * (a["evaluation_hours"] - real))
    assert b["h100_hours_by_flops"] == pytest.approx(2 * a["h100_hours_by_flops"])
    assert b["disk_bytes"]["OUT"] == 2 * a["disk_bytes"]["OUT"]
    assert b["cells"].pop("reference") == a["cells"].pop("reference")
    assert b["cells"] == pytest.approx({name: 2 * hours for name, hours in a["cells"].items()})
    assert sum(b["cells"].values()) + real == pytest.approx(b["evaluation_hours"])


def test_methods_differ_in_what_an_adaptive_solver_is_assumed_to_take(monkeypatch) -> None:
    found = {cost.member.method.key: cost for cost in estimated(monkeypatch, plan(1)).costs}
    ot, flow = ({part.name.strip(): part.seconds for part in found[key].cells} for key in ("fm-ot", "scoreflow-scaled"))
    assert ot["euler 64"] == flow["euler 64"] and ot["dopri5 1e-05"] < flow["dopri5 1e-05"]
    cell = plan(1).recipe.evaluation.grid[-1]
    nfe = [expected_nfe(Cell(solver="dopri5", tolerance=cell.tolerance), name) for name in ("FM w/ OT", "ScoreFlow")]
    assert flow["dopri5 1e-05"] - ot["dopri5 1e-05"] == pytest.approx(40 * (nfe[1] - nfe[0]) * 0.01)
    assert found["fm-ve"].cells == found["fm-vp"].cells  # of which nothing is published


def test_a_solver_grid_of_twice_the_evaluations_takes_so_much_longer(monkeypatch) -> None:
    def hours(nfe: int) -> float:
        grid = f"evaluation.grid=[{{solver = 'euler', nfe = {nfe}}}]"
        return estimated(monkeypatch, plan(1, changes=[grid])).values["cells"][f"euler {nfe}"]

    assert hours(16) - hours(8) == pytest.approx(7 * 40 * 8 * 0.01 / 3600)


def test_the_text_has_every_training_every_cell_and_the_room(monkeypatch) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: Usage(0, 0, 3 * 2**30))
    head, trainings, cells, room = estimated(monkeypatch, plan()).text().split("\n\n")
    measured, steps = head.splitlines()
    assert measured == "measured in 7 s on CPU; nothing was trained or written"
    assert steps.startswith("ddpm-seed0: 10 steps of 64 images, 500 ms each (mean of 9)")
    assert [line.split()[0] for line in trainings.splitlines()[1:]] == [one.folder for one in plan().members] + [
        "total"
    ]
    assert "14 trainings x 40 samples x 4 evaluations of 10 ms" in cells and "by the evaluations assumed" in cells
    assert "along, midpoint 16" in cells and "converged" in cells and "untrained" in cells
    assert "14 trainings x 2 checkpoints" in room and room.endswith("3 GiB free")


def test_what_is_drawn_and_guided_beyond_the_paper_is_counted(monkeypatch) -> None:
    of = planned_beyond("photos", seeds=1, methods=["fm-ot", "reflow"], changes=FEW[:-1])
    ot, reflow = ({part.name.strip(): part.seconds for part in cost.cells} for cost in estimated(monkeypatch, of).costs)
    euler, guided = ot["euler 8"], ot["euler 8, guidance 1"]
    assert guided == pytest.approx(euler) and "euler 8, guidance 1" not in reflow  # of as many evaluations in all
    assert reflow["drawn images"] == pytest.approx(500 * 85 * 0.01) and "drawn images" not in ot
    assert expected_nfe(Cell(solver="dopri5", tolerance=1e-4), "FM w/ OT") == 85


def test_an_objective_that_takes_more_passes_a_step_is_counted_so(monkeypatch) -> None:
    of = planned_beyond("photos", seeds=1, methods=["fm-ot", "shortcut"], changes=FEW[:-1])
    found = estimated(monkeypatch, of)
    plain, dearer = (cost.flops for cost in found.costs)
    assert dearer / plain == pytest.approx(3.5 / 3)
    assert found.values["h100_hours_by_flops"] == pytest.approx(h100_hours(plain + dearer))
    assert f"2 trainings, {plain + dearer:.1e} FLOP" in counted(of, DATA, 1)[1]


def test_counting_comes_before_anything_that_can_be_refused() -> None:
    known, words = counted(plan(2, ["fm-ot", "ddpm"]), DATA, 1)
    lines = words.splitlines()
    assert "640 images seen" in lines[0] and [line.split("  ")[0] for line in lines[4:]] == [
        "FM w/ OT",
        "DDPM",
        "total to train",
    ]
    assert f"4 trainings, {4 * known.flops:.1e} FLOP" in lines[-1] and " in fp32  " in lines[-1]


def test_a_disk_that_cannot_hold_the_checkpoints_is_refused_in_one_sentence(tmp_path, monkeypatch) -> None:
    of = plan(1, ["fm-ot", "ddpm"])
    one = checkpoint_bytes(counted(of, DATA, 1)[0].parameters, of.recipe.training)
    due = 2 * 3 * one  # of each training the two that stay, and the one that gives way last
    free = [due]
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: Usage(0, 0, free[0]))
    check_room(of, tmp_path / "new", 1)
    free[0] -= 1
    with pytest.raises(MachineError, match=f"{due:,} bytes are due .6 checkpoints of {one:,} bytes., .*; "):
        check_room(of, tmp_path / "new", 1)
    (tmp_path / "new" / "ddpm-seed0" / "checkpoints" / f"{640:012d}").mkdir(parents=True)  # this one is done
    check_room(of, tmp_path / "new", 1)
    (tmp_path / "new" / "fm-ot-seed0" / "checkpoints" / f"{320:012d}").mkdir(parents=True)
    free[0] = 2 * one
    check_room(of, tmp_path / "new", 1)


def test_memory_that_is_too_small_is_refused_with_what_would_fit(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "free_here", lambda workers: 10**6)
    with pytest.raises(SettingsError, match="GiB are needed for weights"):
        check_room(plan(1), tmp_path, 1)
    check_room(plan(1), tmp_path, 0)  # elsewhere


def test_more_time_than_there_is_is_refused(monkeypatch) -> None:
    found = estimated(monkeypatch, plan(1))
    check_time(found, 1000)
    with pytest.raises(MachineError, match=r"--hours: the comparison would take .* on this machine, more than 0\.01 h"):
        check_time(found, 0.01)


def test_published_counts_stand_for_pictures_that_are_not_there() -> None:
    data, (size, words) = published(planned("imagenet64", "full", seeds=1))
    assert (data.images, data.shape, data.classes) == (1_281_167, (3, 64, 64), 1000)
    assert size > 1_331_167 * 3 * 64 * 64 and words == "1,331,167 published pictures"
    with pytest.raises(SettingsError, match="--source: emoji has no published counts"):
        published(planned("emoji64", seeds=1))

"""What the parts of an evaluation take, by hand."""

import pytest

from fm.cells import Cell, cells
from fm.estimating.measuring import Data, Measured
from fm.estimating.parts import Part, cell_parts, checkpoints, evaluation, expected_nfe, makespan, taken
from fm.footprint import Footprint
from fm.optimised import CALLS, NOISES
from fm.recipe import Recipe

NEED = Footprint(0, 0, 0, 0)
SAMPLE, BITS, FEATURES, DISTANCES = 0.01, 0.03, 0.02, 0.1
FOUND = Measured("CPU", 1, 64, 64, 9, 0.5, 0.5, SAMPLE, BITS, FEATURES, DISTANCES, NEED, 0, 1.0)
GRID = "evaluation.grid=[{solver = 'euler', nfe = 4, nll_images = 3, samples = 20}, {solver = 'midpoint', nfe = 8}]"


def recipe(*changes: str) -> Recipe:
    own = [GRID, "evaluation.samples=40", "evaluation.nll_images=0", "evaluation.nll_k=1"]
    return Recipe.load("tiny", [*own, "training.total_images=6400", *changes])


def seconds(*changes: str, images: int = 6400) -> dict[str, float]:
    parts = cell_parts(recipe(*changes), FOUND, "FM w/ OT", images)
    return {part.name.strip(): part.seconds for part in parts}


def test_points_have_their_own_samples_and_images_and_each_seed_its_line() -> None:
    found = seconds("evaluation.nll_training_images=5")
    euler = 20 * (4 * SAMPLE + FEATURES) + (3 * (4 + 8) + 5 * 4) * BITS + DISTANCES
    midpoint = 40 * (8 * SAMPLE + FEATURES) + DISTANCES
    assert found == pytest.approx({"euler 4": euler, "midpoint 8": midpoint, "untrained, euler 4": euler})
    names = {"euler 4, seed 0", "euler 4, seed 1", "midpoint 8, seed 0", "midpoint 8, seed 1"}
    assert set(seconds("evaluation.seeds=2")) == names | {"untrained, euler 4, seed 0"}


def test_a_probe_for_each_draw_is_a_second_divergence_in_the_same_pass() -> None:
    one, both = (seconds("evaluation.nll_k=4", f"evaluation.nll_probe={probe}") for probe in ("per_image", "both"))
    assert both["euler 4"] - one["euler 4"] == pytest.approx(3 * 4 * 3 * (BITS - SAMPLE))


def test_errors_are_measured_against_solutions_at_the_converged_tolerance_solved_once() -> None:
    found = seconds("evaluation.error_images=6")
    assert found.pop("converged") == pytest.approx(6 * round(134 * 10**0.2) * SAMPLE)
    assert found == seconds()


def test_optimised_grids_are_chosen_once_for_all_their_points() -> None:
    points = ("{solver='euler',nfe=4,grid='optimised'}", "{solver='euler',nfe=8,grid='optimised'}")
    found = seconds(f"evaluation.grid=[{', '.join(points)}]")
    assert found["grids"] == pytest.approx(NOISES * CALLS * SAMPLE) and "grids" not in seconds()


def test_a_point_along_the_training_is_measured_on_every_kept_checkpoint() -> None:
    kept = ["training.save_images=1000", "training.keep=1", "training.keep_every_images=2000"]
    midpoint = seconds()["midpoint 8"]
    there = seconds(*kept, "evaluation.along={solver = 'midpoint', nfe = 8}")
    assert there["along, midpoint 8"] == pytest.approx(3 * midpoint)  # the grid has it at the end
    other = seconds(*kept, "evaluation.along={solver = 'midpoint', nfe = 8, samples = 20}")
    assert other["along, midpoint 8"] == pytest.approx(4 * (20 * (8 * SAMPLE + FEATURES) + DISTANCES))
    short = seconds(*kept, "evaluation.along={solver = 'midpoint', nfe = 8}", images=2048)
    assert short["along, midpoint 8"] == 0


def test_the_checkpoints_that_stand_are_those_of_the_loop() -> None:
    changes = ["training.save_images=1000", "training.keep=1"]
    every = recipe(*changes, "training.keep_every_images=2000").training
    assert checkpoints(every, 6400) == [2048, 4032, 6016, 6400]
    assert checkpoints(recipe(*changes).training, 6400) == [6400]
    mini = Recipe.load("mini").training
    assert checkpoints(mini, 120_000) == [*range(20_032, 120_000, 20_032), 120_000]


def test_the_whole_is_the_sum_and_features_of_real_images_come_first() -> None:
    whole, real, *rest = evaluation(recipe(), FOUND, Data("", 30, (3, 16, 16), 0), "FM w/ OT", 6400)
    assert real.seconds == pytest.approx((recipe().evaluation.reference_images + 30) * FEATURES)
    assert whole.taken_s == pytest.approx(real.seconds + sum(part.seconds for part in rest))
    assert whole.unit == "core-hours" and "on its CPU" in whole.words


def test_hours_are_summed_by_unit() -> None:
    hours = Part("a", 1, 7200 * 61, "GPU-hours", ""), Part("b", 1, 360, "core-hours", "")
    assert taken([*hours, *hours]) == "240 GPU-hours + 0.2 core-hours"


def test_expected_evaluations_are_those_of_table_1_and_grow_with_the_fifth_root() -> None:
    exact = Cell(solver="dopri5", tolerance=1e-5)
    assert [expected_nfe(exact, name) for name in ("FM w/ OT", "Score Matching (raw)", "Mine w/ x")] == [134, 287, 188]
    assert expected_nfe(Cell(solver="dopri5", tolerance=1e-4), "FM w/ OT", finer=True) == 134
    assert expected_nfe(Cell(solver="dopri5", tolerance=0.5), "FM w/ OT") == 15
    assert [expected_nfe(Cell(solver="midpoint", nfe=8), "DDPM", finer) for finer in (False, True)] == [8, 16]
    assert expected_nfe(Cell(solver="midpoint", nfe=8, guidance=1.0), "DDPM") == 8  # guidance's calls are among them
    assert expected_nfe(Cell(solver="dopri5", tolerance=1e-5, guidance=1.0), "FM w/ OT") == 268


def test_the_longest_jobs_begin_first() -> None:
    assert makespan([1, 1, 3, 2], 2) == 4 and makespan([1, 2], 8) == 2


def test_the_grid_of_every_preset_has_its_cost() -> None:
    assert all(expected_nfe(cell, "FM w/ OT") > 0 for cell in cells(Recipe.load("demo").evaluation))

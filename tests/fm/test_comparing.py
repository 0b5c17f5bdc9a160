import math

import numpy as np
import pytest
import torch

from fm.comparing import ALIKE, BITS, cell_of, compare, names_of, paired, run_of, summary
from fm.errors import UserError
from fm.jackknife import STUDENT
from fm.lineage import code_digest
from fm.metrics import frechet_distance
from fm.metrics.distances import DISTANCES

FD, PRECISION = "fd_x", "precision_k3_x"
LEVELS = [float(g) for g in range(10)]  # whose jackknife variance is 9/10 * 82.5


def a_row(value=400.0, without=LEVELS, nfe=8, **values):
    row = {"key": "k", "method": "FM w/ OT", "path": "ot", "solver": "euler", "nfe": nfe, "tolerance": None}
    row |= {"samples": 300, "seed": 0, "data": "d", "features": "x", "features_weights": "w", "reference_images": 900}
    row |= {"weights": "abc", "images_seen": 10, "noise": "positions", "noise_digest": "n", "batch": 50}
    if value is not None:
        row |= {FD: value, f"{FD}_low": value - 9, f"{FD}_high": value + 9, f"{FD}_floor": 20.0}
    return row | ({f"{FD}_without": without} if without else {}) | values


def two(a, b):
    return run_of("ot", "runs/ot", a), run_of("vp", "runs/vp", b)


def one_pair(a, b, quantity=FD):
    runs = two(a, b)
    (cell,) = runs[0].cells
    return paired(quantity, cell, *runs)


def test_the_paired_interval_is_the_jackknife_of_the_difference_of_both_distances():
    generator = np.random.default_rng(0)
    heldout, common = generator.normal(size=(400, 4)), generator.normal(size=(200, 4))
    sides = [common + 0.02 * generator.normal(size=common.shape) + shift for shift in (0.05, 0.055)]
    group = np.arange(200) % 10

    def fd(x):
        moments = [(z.mean(0), np.cov(z, rowvar=False)) for z in (x, heldout)]
        return frechet_distance(*moments[0], *moments[1])

    direct = np.array([fd(sides[1][group != g]) - fd(sides[0][group != g]) for g in range(10)])
    half = 2.262 * math.sqrt(0.9 * ((direct - direct.mean()) ** 2).sum())
    ours = DISTANCES["fd"]
    rows = []
    for x in sides:
        tensors = torch.from_numpy(x), torch.from_numpy(heldout)
        without = [ours(tensors[0][torch.from_numpy(group != g)], tensors[1]) for g in range(10)]
        rows.append(a_row(ours(*tensors), without))
    found = one_pair(rows[:1], rows[1:])
    assert found.difference == pytest.approx(fd(sides[1]) - fd(sides[0]), rel=1e-6)
    assert found.half == pytest.approx(half, rel=1e-6)
    alone = 1.96 * math.sqrt(
        0.9 * np.square(np.subtract(rows[1][f"{FD}_without"], np.mean(rows[1][f"{FD}_without"]))).sum()
    )
    assert found.half < alone / 2  # noise that both share leaves the difference


def test_an_interval_by_hand():
    other = [2 * level for level in LEVELS]
    found = one_pair([a_row(400.0)], [a_row(380.0, other)])
    assert found.half == pytest.approx(STUDENT * math.sqrt(0.9 * 82.5))
    assert (found.values, found.difference, found.seeds) == ((400.0, 380.0), -20.0, (0,))
    assert 19 < found.half < 20 and found.verdict == "vp is better by 20"
    assert one_pair([a_row(400.0)], [a_row(381.0, other)]).verdict == ALIKE


def test_the_verdict_turns_with_the_runs_and_with_what_is_better():
    near = [level + 0.01 for level in LEVELS]
    low, high = [a_row(380.0)], [a_row(400.0, near)]
    for a, b, better in ((low, high, "ot"), (high, low, "vp")):
        found = one_pair(a, b)
        assert (found.better, found.verdict) == (better, f"{better} is better by 20")
    extra = {f"{PRECISION}_without": LEVELS}
    few, many = ([a_row(**{PRECISION: p, f"{PRECISION}_low": p, f"{PRECISION}_high": p} | extra)] for p in (0.4, 0.6))
    assert one_pair(few, many, PRECISION).verdict == "vp is better by 0.2"
    assert one_pair(many, few, PRECISION).verdict == "ot is better by 0.2"


def test_equal_runs_are_not_distinguishable():
    found = one_pair([a_row()], [a_row()])
    assert (found.verdict, found.difference, found.half, found.better) == (ALIKE, 0.0, 0.0, "")


def test_seeds_are_averaged_and_their_variances_too():
    a = [a_row(value, seed=seed) for seed, value in ((0, 400.0), (1, 410.0), (2, 420.0))]
    b = [a_row(value, [2 * level for level in LEVELS], seed=seed) for seed, value in ((0, 390.0), (1, 380.0))]
    found = one_pair(a, b)
    assert (found.seeds, found.difference, found.values) == ((0, 1), -20.0, (405.0, 385.0))
    assert found.half == pytest.approx(STUDENT * math.sqrt(0.9 * 82.5) / math.sqrt(2))
    (rows,) = two(a, b)[0].cells.values()
    total = summary(rows, FD)
    assert total is not None
    assert (total.value, total.deviation, total.best, total.seeds) == (410.0, 10.0, 400.0, 3)
    assert total.half == pytest.approx(9 / math.sqrt(3))
    assert summary(rows, "kid_x") is None


@pytest.mark.parametrize("seeds", [1, 4, 100])
def test_more_seeds_narrow_a_distance_but_not_bits_that_score_the_same_images(seeds):
    bits = {"nll_converged": True, "nll_images": 20, f"{BITS}_stderr": 0.1, f"{BITS}_train_stderr": 0.1}
    bits |= {f"{BITS}_train": 4.0}
    doubled = [2 * level for level in LEVELS]
    a = [a_row(seed=seed, **bits | {BITS: 4.2, f"{BITS}_without": LEVELS}) for seed in range(seeds)]
    b = [a_row(380.0, doubled, seed=seed, **bits | {BITS: 4.1, f"{BITS}_without": doubled}) for seed in range(seeds)]
    one = STUDENT * math.sqrt(0.9 * 82.5)
    assert one_pair(a, b, BITS).half == pytest.approx(one)
    assert one_pair(a, b).half == pytest.approx(one / math.sqrt(seeds))
    for name, half in ((BITS, 0.196), (f"{BITS}_train", 0.196), (FD, 9 / math.sqrt(seeds))):
        total = summary(a, name)
        assert total is not None and total.half == pytest.approx(half) and total.seeds == seeds


def test_the_bits_of_seeds_are_averaged_group_by_group():
    bits = {"nll_converged": True, "nll_images": 20, BITS: 4.0}
    a = [a_row(seed=seed, **bits | {f"{BITS}_without": [0.0] * 10}) for seed in (0, 1)]
    b = [a_row(seed=s, **bits | {f"{BITS}_without": w}) for s, w in ((0, LEVELS), (1, LEVELS[::-1]))]
    assert one_pair(a, b, BITS).half == 0  # what one seed adds to a group the other takes from it


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        (a_row(), a_row(noise_digest="m"), "drawn from other noise"),
        (a_row(), a_row(seed=1), "drawn with other seeds"),
        (a_row(), a_row(samples_not_finite=3), "3 samples of vp not finite"),
        (a_row(None, None, failed="3 of 300 samples are not finite"), a_row(), "ot failed: 3 of 300 samples"),
    ],
)
def test_what_cannot_be_paired_says_why(a, b, says):
    found = one_pair([a], [b])
    assert found.verdict.startswith(says) and found.difference is None and found.better == ""
    assert found.values == (None if "failed" in a else (400.0, 400.0))


def test_bits_are_paired_by_held_out_images():
    bits = {"nll_converged": True, "nll_images": 20, "nll_k": 1, f"{BITS}_without": LEVELS}
    a, b = a_row(**bits | {BITS: 4.2}), a_row(noise_digest="m", **bits | {BITS: 4.1})
    assert one_pair([a], [b], BITS).verdict == "vp is better by 0.1"
    assert one_pair([a], [b | {"nll_k": 2}], BITS).verdict.startswith("of other images")
    few = b | {f"{BITS}_without": None}
    assert one_pair([a], [few], BITS).verdict == "too few images for 10 groups"
    unconverged = b | {BITS: None, "nll_converged": False}
    assert one_pair([a], [unconverged], BITS).verdict == "vp has not converged"


def test_a_comparison_goes_through_all_common_cells_and_notes_the_rest():
    many = a_row(nfe=16, samples=500)
    a, b = [a_row(), a_row(nfe=16), a_row(nfe=32)], [a_row(390.0), many, a_row(nfe=4)]
    found = compare(two(a, b))
    assert [(pair.quantity, str(pair.cell)) for pair in found.paired] == [(FD, "euler 8")]
    assert found.notes == [
        "runs/vp: euler 16 was measured with samples 500, not 300 as runs/ot; evaluate both alike",
        "runs/vp: has no row of euler 32 to compare with runs/ot; "
        "`fm evaluate runs/vp --solvers euler --nfe 32 --samples 300`",
        "runs/ot: has no row of euler 4 to compare with runs/vp; "
        "`fm evaluate runs/ot --solvers euler --nfe 4 --samples 300`",
    ]
    assert [str(cell) for cell in found.cells] == ["euler 4", "euler 8", "euler 16", "euler 16", "euler 32"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"data": "e"},
            "runs/vp: was measured with data e, runs/ot with d; compare RUNs that were measured on one DATA",
        ),
        ({"features": "y"}, "runs/vp: was measured with features y, runs/ot with x; evaluate both with the same"),
        ({"features_weights": "v"}, "runs/vp: was measured with a features file v, runs/ot with w; evaluate both"),
        ({"samples": 500}, "runs/vp: euler 8 was measured with samples 500, not 300 as runs/ot"),
        ({"nfe": 4}, "runs/vp: has no row of euler 8"),
    ],
)
def test_where_nothing_can_be_compared_one_sentence_says_why(changes, says):
    with pytest.raises(UserError) as error:
        compare(two([a_row()], [a_row(**changes)]))
    assert str(error.value).startswith(says)


def test_what_is_missing_is_named_once_with_its_features_where_they_are_several():
    cells = [(2, "x"), (2, "y"), (4, "x"), (4, "y"), (16, "y")]
    a = [a_row(), *(a_row(nfe=nfe, features=features, features_weights=features) for nfe, features in cells)]
    (note,) = compare(two(a, [a_row()])).notes
    assert note.startswith(
        "runs/vp: has no row of euler 2, euler 4 (features x, y) and euler 16 (features y) to compare"
    )
    assert note.endswith("`fm evaluate runs/vp --solvers euler --nfe 2,4,16 --samples 300`")
    (note,) = compare(two([a_row(), a_row(nfe=2), a_row(nfe=2, samples=500)], [a_row()])).notes
    assert note.startswith("runs/vp: has no row of euler 2 to compare")


def test_what_a_run_has_no_value_of_is_said_once_for_each_quantity():
    kid = {"kid_x": 1.0, "kid_x_low": 0.0, "kid_x_high": 2.0, "kid_x_without": LEVELS}
    a, b = [a_row(nfe=nfe, **kid) for nfe in (4, 8, 16)], [a_row(nfe=nfe) for nfe in (4, 8, 16)]
    found = compare(two(a, b))
    assert [pair.quantity for pair in found.paired] == [FD] * 3
    assert found.notes == ["runs/vp: has no value of kid_x; evaluate both alike"]
    three = compare([*two(b, a), run_of("far", "runs/far", a)])
    assert three.notes == ["runs/ot: has no value of kid_x; evaluate both alike"]
    some = compare(two([a_row(nfe=4, **kid), *b[1:]], [a_row(nfe=4), *a[1:2], b[2]]))
    assert [note.partition(";")[0] for note in some.notes] == [
        "runs/ot: has no value of kid_x in euler 8",
        "runs/vp: has no value of kid_x in euler 4",
    ]


def test_a_third_run_of_other_data_is_a_note_where_two_can_be_compared():
    runs = [*two([a_row()], [a_row()]), run_of("far", "runs/far", [a_row(data="e")])]
    found = compare(runs)
    assert [pair.other for pair in found.paired] == ["vp"]
    assert [note.partition(";")[0] for note in found.notes] == ["runs/far: was measured with data e, runs/ot with d"]


def test_adaptive_solvers_are_compared_at_equal_tolerance_and_batch_whatever_they_took():
    adaptive = {"solver": "dopri5", "tolerance": 1e-3, "control": "joint"}
    a, b = a_row(nfe=62, **adaptive), a_row(nfe=50, **adaptive)
    assert cell_of(a) == cell_of(b) != cell_of(b | {"batch": 20})
    assert str(cell_of(a)) == "dopri5 at 0.001"
    assert cell_of(a_row(batch=20)) == cell_of(a_row())


def test_the_newest_weights_count_and_what_was_measured_last_by_this_code():
    rows = [a_row(1.0, images_seen=5, weights="old"), a_row(2.0, code=code_digest()), a_row(3.0, without=None)]
    rows += [a_row(4.0, method="untrained", images_seen=0, weights="untrained-1"), a_row(None, None, failed="no")]
    run = run_of("ot", "runs/ot", rows)
    assert ([row[FD] for row in run.rows], run.left_out, run.weights) == ([2.0], 1, "abc")
    assert compare([run, run_of("vp", "runs/vp", [a_row()])]).notes == ["runs/ot: 1 row of other weights is left out"]


def test_a_failed_row_finds_its_cell_by_what_the_others_say():
    adaptive = {"solver": "dopri5", "tolerance": 1e-3, "control": "joint"}
    bare = {"method": "m", **adaptive, "nfe": None, "samples": 300, "failed": "ended"}
    runs = two([a_row(nfe=60, **adaptive)], [bare, a_row(nfe=9, **adaptive | {"tolerance": 1e-2})])
    (pair,) = compare(runs).paired
    assert pair.verdict == "vp failed: ended"
    asked = bare | {"cell": '{"batch": 20, "reference_images": 900}', "data": "d", "features_weights": "w"}
    (run,) = (run_of("vp", "runs/vp", [asked, a_row()]),)
    assert any(cell == cell_of(a_row(nfe=60, **adaptive | {"batch": 20})) for cell in run.cells)


def test_rows_of_one_cell_and_code_with_other_distances_are_taken_together():
    kid = {"kid_x": 1.0, "kid_x_low": 0.0, "kid_x_high": 2.0, "kid_x_without": LEVELS}
    (row,) = run_of("ot", "runs/ot", [a_row(code="c"), a_row(None, None, code="c", **kid)]).rows
    assert (row[FD], row["kid_x"]) == (400.0, 1.0)
    (row,) = run_of("ot", "runs/ot", [a_row(code="b"), a_row(None, None, code=code_digest(), **kid)]).rows
    assert FD not in row


def test_the_best_of_a_cell_is_better_than_each_other():
    near = [level + 0.01 for level in LEVELS]
    runs = [run_of(n, n, [a_row(v, w)]) for n, v, w in (("a", 400.0, LEVELS), ("b", 380.0, near), ("c", 399.0, near))]
    found = compare(runs)
    assert found.best(found.cells[0], FD) == "b"
    alike = compare([*runs[:2], run_of("c", "c", [a_row(380.0, near)])])
    assert alike.best(alike.cells[0], FD) == ""
    alone = compare([run_of("a", "a", [a_row(), a_row(nfe=4)]), runs[1]])
    assert alone.best(alone.cells[0], FD) == ""


def test_runs_that_cannot_take_part():
    with pytest.raises(UserError, match="runs/ot: holds no rows to compare; evaluate it first: `fm evaluate runs/ot`"):
        run_of("ot", "runs/ot", [a_row(method="untrained")])
    with pytest.raises(UserError, match="runs/ot: is one RUN alone; name another"):
        names_of(["runs/ot"])
    with pytest.raises(UserError, match="runs/ot/: is named twice"):
        names_of(["runs/ot", "runs/ot/"])


def test_names_are_as_short_as_they_can_be():
    assert names_of(["runs/ot", "s3://bucket/runs/vp"]) == ["ot", "vp"]
    assert names_of(["a/run", "b/run", "b/other"]) == ["a/run", "b/run", "b/other"]
    assert names_of(["run", "x/run"]) == ["run", "x/run"]


def test_rows_are_of_one_cell_only_if_they_are_guided_alike_and_told_the_same():
    guided = {"guidance": 1.0, "guidance_interval": [0.0, 1.0], "guide": ""}
    ways = ({}, guided, guided | {"guide": "a" * 64}, guided | {"guide": "b" * 64}, {"low_size": 16})
    cells = {cell_of(a_row(**way)) for way in ways}
    assert len(cells) == len(ways) and str(cell_of(a_row(**guided))) == "euler 8, guidance 1"
    run = run_of("ot", "runs/ot", [a_row(**way) for way in ways])
    assert len(run.rows) == len(ways)

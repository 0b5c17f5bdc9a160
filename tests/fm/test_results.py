import csv
import io
import math

import pytest

from fm.errors import DataError
from fm.files import read_json, write_json
from fm.results import (
    apart,
    bits_text,
    csv_table,
    distances,
    in_order,
    notes_on,
    pooled,
    read_row,
    read_rows,
    row_file,
    table_note,
    text_table,
    worse,
    write_row,
)


def a_row(key: str, **values):
    row = {"key": key, "method": "FM w/ OT", "path": "ot", "solver": "euler", "nfe": 8, "tolerance": None}
    row |= {"samples": 300, "seed": 0, "seconds": 1.25, "fd_x": 399.04, "fd_x_low": 380.0, "fd_x_high": 418.0}
    row |= {"fd_x_floor": 18.21, "bits_per_dim": 4.1789, "bits_per_dim_stderr": 0.113, "nll_converged": True}
    return row | values


ROWS = [
    a_row("d", solver="dopri5", nfe=50, tolerance=1e-3, samples=100),
    a_row("b", nfe=16),
    a_row("a", nfe=4, bits_per_dim=None, bits_per_dim_stderr=None, nll_converged=False, nll_unconverged=-0.9),
    a_row("u", method="untrained", fd_x=2706.0, fd_x_low=2650.0, fd_x_high=2750.0),
]


def test_rows_come_back_as_they_were_and_in_order(tmp_path):
    for row in ROWS:
        write_row(tmp_path, row)
    assert [row["key"] for row in read_rows(tmp_path)] == ["a", "b", "d", "u"]
    assert read_row(tmp_path, "b") == ROWS[1]
    assert read_row(tmp_path, "never measured") is None
    assert read_rows(tmp_path / "nothing") == []


def test_a_file_with_another_row_in_it_is_refused(tmp_path):
    write_json(row_file(tmp_path, "a"), a_row("b"))
    with pytest.raises(DataError, match="another key"):
        read_row(tmp_path, "a")


def test_text_table_golden():
    assert text_table(ROWS).splitlines() == [
        "method     path  solver           NFE  samples       fd_x  floor       bits/dim  seconds",
        "---------  ----  ---------------  ---  -------  ---------  -----  -------------  -------",
        "FM w/ OT   ot    euler              4      300   399 ± 19   18.2  not converged      1.2",
        "FM w/ OT   ot    euler             16      300   399 ± 19   18.2    4.18 ± 0.11      1.2",
        "FM w/ OT   ot    dopri5 at 0.001   50      100   399 ± 19   18.2    4.18 ± 0.11      1.2",
        "untrained  ot    euler              8      300  2706 ± 50   18.2    4.18 ± 0.11      1.2",
    ]


def test_seeds_are_one_line_with_mean_deviation_and_least():
    seeds = [a_row(str(n), seed=n, fd_x=value, nfe_mean=8.0) for n, value in enumerate((100.0, 110.0, 120.0))]
    (one,) = pooled(seeds)
    assert (one["fd_x"], one["fd_x_sd"], one["fd_x_best"], one["seeds"]) == (110, 10, 100, 3)
    assert (one["fd_x_low"], one["fd_x_high"], one["seconds"]) == (100, 120, 3.75)
    line = text_table(seeds).splitlines()[2]
    assert "300 x 3 seeds" in line and "110 ± 10" in line and "least" in text_table(seeds)
    other = a_row("4", nfe=16, nfe_mean=16.0)
    assert [row.get("seeds") for row in pooled([*seeds, other])] == [3, None]


def test_of_several_seeds_every_value_is_the_mean_and_bits_stand_if_all_have_converged():
    more = {"bits_per_dim_train": 2.0, "generalisation_gap": 1.0, "nfe_mean": 8.0, "fd_x_ratio": 20.0}
    seeds = [a_row("0", **more), a_row("1", seed=1, **(more | {"bits_per_dim_train": 3.0, "bits_per_dim": 5.1789}))]
    (one,) = pooled(seeds)
    assert (one["bits_per_dim"], one["bits_per_dim_train"]) == pytest.approx((4.6789, 2.5))
    assert one["bits_per_dim_stderr"] == pytest.approx(0.113) and one["fd_x_ratio"] == pytest.approx(399.04 / 18.21)
    seeds[0] |= {"bits_per_dim": None, "bits_per_dim_stderr": None, "nll_converged": False}
    (one,) = pooled(seeds)
    assert one["bits_per_dim"] is None and bits_text(one) == "not converged"
    assert bits_text(a_row("x", bits_per_dim_stderr=None)) == "4.18"


def test_a_row_that_was_changed_by_hand_is_no_measurement(tmp_path):
    file = write_row(tmp_path, ROWS[1])
    assert read_row(tmp_path, "b") == ROWS[1]
    write_json(file, read_json(file) | {"fd_x": 12.3})
    assert read_row(tmp_path, "b") is None and read_rows(tmp_path) == []


def test_a_failed_cell_is_said_and_a_failed_seed_leaves_the_others():
    failed = {**{k: ROWS[1][k] for k in ("method", "path", "solver", "nfe", "tolerance", "samples")}, "seconds": 0.0}
    failed |= {"key": "f", "seed": 1, "failed": "no memory", "nfe_mean": None}
    assert "failed" in text_table([failed, a_row("a", nfe=4)]).splitlines()[3]
    assert table_note([failed]).startswith("1 cell failed, the first one so: no memory")
    assert [row["key"] for row in pooled([failed, a_row("g", nfe=16)])] == ["g"]


def test_columns_come_with_what_was_measured():
    more = {
        "bits_per_dim_per_draw": 4.1,
        "bits_per_dim_train": 4.0,
        "generalisation_gap": 0.179,
        "solution_error": 0.0123,
    }
    lines = text_table([a_row("a", **more, generalisation_gap_stderr=0.05), a_row("b", nfe=16)]).splitlines()
    for heading, text in (("probe per draw", "4.10"), ("of training images", "4.00"), ("gap", "0.179 ± 0.050")):
        assert heading in lines[0] and text in lines[2] and text not in lines[3]
    assert "solver's error" in lines[0] and "0.0123" in lines[2]


def test_an_unconverged_value_is_shown_nowhere():
    assert "-0.9" not in text_table(ROWS)
    assert "not converged" in text_table(ROWS)
    assert bits_text(a_row("n", bits_per_dim=None, nll_converged=None)) == ""


def test_csv_keeps_every_key_and_digit():
    read = list(csv.DictReader(io.StringIO(csv_table(ROWS))))
    assert [row["key"] for row in read] == [row["key"] for row in in_order(ROWS)]
    assert read[1]["fd_x"] == "399.04" and "nll_unconverged" in read[0]


def test_tables_of_nothing():
    assert distances([]) == []
    assert text_table([]).startswith("method")


def test_the_table_explains_not_converged_where_it_says_so() -> None:
    assert table_note([{"nll_converged": True}, {"nll_converged": None}]) == ""
    assert table_note([{"nll_converged": False}]).startswith("not converged: with twice the steps")


def test_the_table_says_where_a_frechet_distance_is_of_a_singular_covariance() -> None:
    row = {"fd_x": 3.0, "samples": 500, "reference_images": 900, "features_dimensions": 2048}
    assert table_note([row]).startswith("fd: 500 pictures do not span 2048 dimensions")
    quartered = row | {"fd_infinity_x": 1.0, "samples": 5000, "reference_images": 5000}
    assert table_note([quartered]).startswith("fd: 1250 pictures do not span 2048 dimensions")
    assert (
        table_note([row | {"features_dimensions": 80}])
        == table_note([row | {"reference_images": 5000, "samples": 5000}])
        == ""
    )


def test_solutions_that_the_finest_adaptive_row_does_not_meet_have_not_converged() -> None:
    """A row at the tolerance of the solutions themselves would prove nothing, nor does one of fixed steps."""
    known = {"solution_error_tolerance": 1e-6}
    same = a_row("s", tolerance=1e-6, solution_error=0.0, weights="w", **known)
    fine = a_row("f", tolerance=1e-5, solution_error=0.3, weights="w", **known)
    coarse = a_row("c", tolerance=1e-3, solution_error=0.001, weights="w", **known)
    euler = a_row("e", solution_error=0.001, weights="w", **known)
    assert apart([same, fine, coarse, euler]) == 0.3 and apart([same, euler]) is None
    assert apart([coarse, euler]) is None  # that 1e-3 is off says nothing of 1e-6
    assert apart([fine | {"solution_error": math.nan}]) == apart([fine | {"samples_not_finite": 1}]) == math.inf
    (note,) = notes_on([fine, coarse, euler])
    assert not notes_on([coarse, euler]) and "ends 0.3 from those that count as converged, which so have not" in note
    assert not notes_on([a_row("o", tolerance=1e-5, solution_error=0.003, weights="o", **known)])
    (note,) = notes_on([a_row("n", solution_failed="the step size vanished")])
    assert note.endswith("no solutions to measure it against: the step size vanished")


def test_similarities_come_last_and_are_better_the_higher() -> None:
    row = {"precision_k3_x": 0.7, "precision_k3_x_low": 0.6, "recall_k3_x_low": 0.1, "zd_x": 0.7, "zd_x_low": 0.6}
    assert distances([row]) == ["zd_x", "precision_k3_x", "recall_k3_x"]
    assert worse(row, "zd_x") == 0.7 and worse(row, "precision_k3_x") == -0.7

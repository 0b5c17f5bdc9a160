import csv
import io
from dataclasses import replace

import pytest

from fm.report.comparison import (
    cells_table,
    columns,
    csv_of,
    pair_values,
    paired_csv,
    paired_table,
    runs_table,
    table_note,
)


def test_the_table_of_runs_says_what_each_is(comparison):
    assert runs_table(comparison)[1:] == [
        ["ot", "FM w/ OT", "ot", "19,200", "abcdef01", "fp32", "runs/ot"],
        ["v_p", "FM w/ Diffusion", "ot", "19,200", "fedcba98", "fp32", "runs/v_p"],
    ]


def test_the_table_of_numbers_goes_cell_by_cell_with_seeds_floors_and_what_failed(comparison):
    head, *lines = cells_table(comparison)
    table = [dict(zip(head, line, strict=True)) for line in lines]
    assert [(line["run"], line["solver"], line["NFE"]) for line in table] == [
        ("ot", "euler", "4"),
        ("v_p", "euler", "4"),
        ("ot", "euler", "8"),
        ("v_p", "euler", "8"),
        ("ot", "euler", "16"),
        ("ot", "dopri5 at 0.001 (batch 50, joint)", "62, mean 58.2"),
        ("v_p", "dopri5 at 0.001 (batch 50, joint)", "70"),
    ]
    assert (table[2]["fd_x"], table[2]["s.d."], table[2]["minimum"]) == ("402 ± 6.36", "2.83", "400")
    assert (table[0]["fd_x"], table[0]["s.d."], table[0]["ratio to floor"]) == ("500 ± 9", "", "25.00")
    assert (table[-1]["fd_x"], table[-1]["bits/dim"], table[-2]["bits/dim"]) == ("failed", "failed", "4.250 ± 0.196")
    assert table[-2]["generalisation gap"] == "+0.250 ± 0.277"


def test_columns_without_a_value_are_left_out(comparison):
    headings = [column.heading for column in columns(comparison)]
    for run in comparison.runs:
        for row in run.rows:
            row |= {"fd_x_floor": None, "generalisation_gap": None}
    assert set(headings) - {c.heading for c in columns(comparison)} == {"floor", "ratio to floor", "generalisation gap"}


def test_the_paired_table_says_what_is_better_and_what_is_not_known(comparison):
    head, *lines = paired_table(comparison)
    assert head == ["quantity", "solver", "ot", "v_p", "difference", "seeds", "verdict"]
    assert [line[-1] for line in lines] == [
        "not distinguishable at this sample size",
        "ot is better by 58",
        "v_p failed: 3 of 300 samples are not finite",
        "v_p failed: 3 of 300 samples are not finite",
    ]
    assert lines[1][2:4] == ["402", "460"] and lines[1][4].startswith("+58 ± ") and lines[1][5] == "2"
    assert lines[2][2:6] == ["", "", "", ""]
    three = replace(comparison, runs=[*comparison.runs, comparison.runs[0]])
    assert paired_table(three)[0][2:5] == ["other run", "ot", "its value"] and paired_table(three)[1][2] == "v_p"


def test_csv_and_values_keep_every_digit(comparison):
    rows = list(csv.DictReader(io.StringIO(csv_of(comparison))))
    assert {row["run"] for row in rows} == {"ot", "v_p"} and len(rows) == 9
    pairs = list(csv.DictReader(io.StringIO(paired_csv(comparison))))
    assert len(pairs) == len(comparison.paired) and pairs[1]["better"] == "ot" and pairs[1]["seeds"] == "0 1"
    values = pair_values(comparison.paired[1])
    assert values["difference_high"] - values["difference"] == pytest.approx(comparison.paired[1].half)
    assert float(pairs[1]["difference_low"]) == values["difference_low"]
    assert pair_values(comparison.paired[2])["difference_low"] is None


def test_the_note_names_the_quantile_of_the_paired_intervals():
    assert "nine degrees of freedom (2.262)" in table_note()


def test_the_note_says_that_seeds_score_the_same_images():
    assert "bits/dim and of the generalisation gap score the same images" in table_note()


def test_the_gap_of_several_seeds_is_as_sure_as_that_of_one(comparison):
    (rows,) = (rows for cell, rows in comparison.runs[0].cells.items() if cell.tolerance)
    rows += [rows[0] | {"seed": seed} for seed in (1, 2, 3)]
    head, *lines = cells_table(comparison)
    (line,) = (dict(zip(head, line, strict=True)) for line in lines if line[0] == "ot" and "dopri5" in line[2])
    assert (line["bits/dim"], line["generalisation gap"]) == ("4.250 ± 0.196", "+0.250 ± 0.277")

from dataclasses import replace

from fm.beyond.plan import BUDGETS
from fm.beyond.table import adaptive, at_budget, figure, figures, table


def test_a_figure_is_better_or_worse_only_if_each_seed_says_so(trained, line):
    found = figures(trained)
    jumps, euler = found[line["MeanFlow, jumps"]], found[line["MeanFlow, Euler"]]
    assert str(jumps["1"]) == "150 * (better)" and str(jumps["50"]) == "150 (worse)" and "dopri5" not in jumps
    assert euler["1"].verdict == "" and str(euler["dopri5"]) == "90 *"
    assert {one.verdict for one in found[line["FM w/ OT"]].values()} == {""}
    bad = {"fd_random_conv": 900.0, "fd_random_conv_without": [900.0] * 10}
    swapped = [
        replace(one, rows=tuple(row | bad for row in one.rows))
        if (one.method.key, one.seed) == ("mean-flow", 1)
        else one
        for one in trained
    ]
    assert figures(swapped)[line["MeanFlow, jumps"]]["1"].verdict == ""


def test_a_star_is_at_the_lowest_and_at_what_is_not_told_apart_from_it(trained, line):
    found = figures(trained)
    starred = {title for title, own in ((line.title, own["1"]) for line, own in found.items()) if own.leads}
    assert starred == {"MeanFlow, jumps", "Shortcut, jumps"} and not found[line["FM w/ OT"]]["1"].leads
    assert all(own["4"].leads == (line.solver == "jump") for line, own in found.items())


def test_a_star_is_lost_only_if_every_seed_tells_a_line_from_the_lowest(trained, line):
    (jumps,) = (one for one in trained if (one.method.key, one.seed) == ("mean-flow", 0))
    lowest = next(row for row in jumps.rows if row["solver"] == "jump")
    close = {name: lowest[name] for name in ("fd_random_conv", "fd_random_conv_without")}
    one_seed = [
        replace(one, rows=tuple(row | close if row["nfe"] == 1 else row for row in one.rows))
        if (one.method.key, one.seed) == ("skewed", 0)
        else one
        for one in trained
    ]
    assert figures(one_seed)[line["Skewed times"]]["1"].leads
    other = {"fd_random_conv": 1.0, "noise_digest": "x"}
    unpaired = [
        replace(one, rows=tuple(row | other for row in one.rows)) if one.method.key == "skewed" else one
        for one in trained
    ]
    found = figures(unpaired)
    assert not found[line["Skewed times"]]["1"].leads and found[line["MeanFlow, jumps"]]["1"].leads


def test_a_lowest_one_that_lacks_a_seed_is_compared_by_those_that_it_has(trained, line):
    fewer = [one for one in trained if (one.method.key, one.seed) != ("mean-flow", 1)]
    found = figures(fewer)
    assert found[line["MeanFlow, jumps"]]["1"].leads and not found[line["FM w/ OT"]]["1"].leads
    apart = [one for one in fewer if one.method.key != "fm-ot" or one.seed == 1]
    assert not figures(apart)[line["FM w/ OT"]]["1"].leads


def test_rows_of_other_noise_are_not_paired(trained, line):
    other = [
        replace(one, rows=tuple(row | {"noise_digest": "x"} for row in one.rows)) if one.method.key == "skewed" else one
        for one in trained
    ]
    assert str(figures(other)[line["Skewed times"]]["4"]) == "200 (not paired)"


def test_of_one_step_every_grid_is_the_same(trained, line):
    optimised, plain = line["FM w/ OT, optimised grid"], line["FM w/ OT"]
    assert at_budget(trained, optimised, 1) == at_budget(trained, plain, 1)
    assert at_budget(trained, optimised, 4)[0]["chosen_grid"] == "optimised"
    assert figure(at_budget(trained, optimised, 4), at_budget(trained, plain, 4), "fd_random_conv").value == 200.5
    assert figure({}, {}, "fd_random_conv").value is None and set(adaptive(trained, "fm-ot")) == {0, 1}


def test_the_table_has_the_floor_a_line_for_each_and_what_it_cost(trained):
    head, floor, *lines = table(trained)
    by_title = {line[0]: dict(zip(head, line, strict=True)) for line in lines}
    assert floor[2] == "19" and all(len(line) == len(head) for line in lines)
    plain = by_title["FM w/ OT"]
    assert plain["4"] == "200" and plain["dopri5"] == "90 *" and plain["NFE of dopri5"] == "80"
    assert plain["bits/dim"] == "4.050" and plain["images seen"] == "12,800" and plain["seconds"] == "60"
    assert by_title["MeanFlow, jumps"]["bits/dim"] == "" and by_title["Shortcut, Euler"]["bits/dim"] == "4.050"
    assert table([])[1][2] == "" and len(table([])) == 2


def test_the_floor_is_of_as_many_images_as_the_figures_beside_it(trained):
    few = {"fd_random_conv_floor": 300.0, "tolerance": 1e-4, "samples": 20, "key": "few"}  # of a point for bits/dim
    trained[0] = replace(trained[0], rows=(*trained[0].rows, trained[0].rows[-1] | few))
    assert set(table(trained)[1][2:9]) == {"19"}


def test_guided_rows_stand_at_the_evaluations_that_they_took_and_in_no_other_line(trained, line):
    guided, plain = line["FM w/ OT, autoguidance 1"], line["FM w/ OT"]
    found = figures(trained)[guided]
    assert not at_budget(trained, guided, 1) and found["1"].value is None and "dopri5" not in found
    assert str(found["4"]) == "190 (better)" and str(found["50"]) == "190 (worse)"
    assert all(not row.get("guidance") for nfe in BUDGETS for row in at_budget(trained, plain, nfe).values())

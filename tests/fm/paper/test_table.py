import csv

import pytest

from fm.paper import table
from fm.paper.plan import planned

from .conftest import FD, changed, each_row


def by_method(found):
    return {line["method"]: line for line in found}


def test_figures_are_means_over_training_seeds_with_their_range(plan, trained):
    head, *body = table.table(plan, trained)
    assert head == ["method", "seeds", "bits/dim, K = 1", FD, "floor", "NFE", "note"]
    assert len(body) == len(plan.methods) and all(len(line) == len(head) for line in body)
    ot = next(line for line in body if line[0] == "FM w/ OT")
    assert ot[1:6] == ["2", "4.005 (4.000 to 4.010)", "400 (400 to 401)", "60", "69 (68 to 70)"]


def test_a_repetition_shows_the_figures_that_it_repeats_and_says_so(plan, trained):
    found = by_method(table.lines(plan, trained))
    assert found["Score Matching (scaled)"][FD] == found["DDPM"][FD]
    assert "repeats the training of DDPM" in found["Score Matching (scaled)"]["note"]
    assert "the better form in" in found["ScoreFlow (scaled)"]["note"] and not found["ScoreFlow (raw)"]["note"]
    assert found["FM w/ VE"]["note"] == "extra row: the paper has no figure of it"


def test_at_mini_scale_and_of_other_data_nothing_is_subtracted(plan, trained):
    for one in (plan, planned("cifar10"), planned("emoji64")):
        assert not any("difference" in words for words in table.table(one, trained)[0])
    assert any(words.startswith("published") for words in table.table(planned("cifar10"), trained)[0])
    assert "none are of these data" in table.table_note(plan, trained)
    assert "they are of the full scale" in table.table_note(planned("cifar10"), trained)


def test_another_distance_or_k_is_not_subtracted_but_evaluations_are(trained):
    many = each_row(trained, "", lambda row: row | {"nll_images": 10_000} if row["nll_converged"] else row)
    found = by_method(table.lines(planned("cifar10", "full"), many))["FM w/ OT"]
    assert found["difference in FID"] == "not comparable: not of Inception's features"
    assert found["difference in NLL, K = 50"] == "not comparable: not measured alike"
    assert found["difference in NFE"] == 69 - 142
    assert found["difference in NLL, K = 1"] == pytest.approx(4.005 - 3.11)
    assert found["published NLL, K = 50"] == 2.99 and found["published FID"] == 6.35
    head, *body = table.table(planned("cifar10", "full"), trained)
    assert [line[head.index("difference in NFE")] for line in body if line[0] == "FM w/ OT"] == ["-73"]


def test_like_is_subtracted_from_like(trained):
    """Inception's features, 50,000 samples, training images, and a probe for each of 50 draws of all test images."""
    line = by_method(table.lines(planned("cifar10", "full"), each_row(trained, "", full)))["FM w/ OT"]
    assert line["difference in FID"] == pytest.approx(400.5 - 6.35)
    assert line["difference in NLL, K = 50"] == pytest.approx(0.01)
    assert line["bits/dim, K = 50"] == 4.005 and line["bits/dim, K = 50, probe per draw"] == 3.0


def full(row):
    """A row as of the paper's own scale."""
    found = {key.replace(FD, "fd_inception_v3"): value for key, value in row.items()}
    drawn = {"nll_k": 50, "bits_per_dim_per_draw": 3.0, "nll_images": 10_000} if row["nll_converged"] else {}
    return found | {"samples": 50_000, "reference_split": "training"} | drawn


@pytest.mark.parametrize(
    ("change", "words", "said"),
    [
        ({"reference_split": "heldout"}, "FID", "against held-out images, not those of the training"),
        ({"samples": 10_000}, "FID", "of 10,000 samples, not 50,000"),
        ({"nll_images": 64}, "NLL, K = 1", "of 64 images, not 10,000"),
        ({"nll_images": 64}, "NLL, K = 50", "of 64 images, not 10,000"),
    ],
)
def test_what_was_measured_otherwise_is_not_subtracted(trained, change, words, said):
    found = each_row(each_row(trained, "", full), "", lambda row: row | change)
    line = by_method(table.lines(planned("cifar10", "full"), found))["FM w/ OT"]
    assert line[f"difference in {words}"] == f"not comparable: {said}"


def test_nothing_of_other_data_is_subtracted(trained):
    plan, found = planned("cifar10", "full"), each_row(trained, "", full)
    line = by_method(table.lines(plan, found, "holds 9 train images"))["FM w/ OT"]
    differences = {value for words, value in line.items() if words.startswith("difference")}
    assert differences == {"not comparable: of other data"}
    head, *body = table.table(plan, found, "holds 9 train images")
    assert body[-2][head.index("difference in NFE")] == "not comparable: of other data"
    assert "-73" not in table.csv_of(plan, found, "holds 9 train images")


def test_imagenet_128_has_a_table_without_draws(trained):
    head, *body = table.table(planned("imagenet128", "full"), trained)
    ot = dict(zip(head, next(line for line in body if line[0] == "FM w/ OT"), strict=True))
    assert ot["published NLL"] == "2.900" and ot["published NFE"] == ot["difference in NFE"] == "none"
    assert ot["difference in NLL"] == "not comparable: its draws are not stated"


def test_other_data_are_marked_in_every_line(plan, trained):
    *_, last = zip(*table.table(plan, trained, "holds 9 train images")[1:], strict=True)
    assert all("the data set holds 9 train images" in note for note in last)
    assert "not the published data" in table.table_note(plan, trained, "holds 9 train images")


def test_what_failed_has_no_figures_and_its_reason(plan, trained):
    found = by_method(table.lines(plan, changed(trained, "fm-vp", rows=(), failed="loss is not finite")))
    assert found["FM w/ Diffusion"][FD] is None and "seed 0: loss is not finite" in found["FM w/ Diffusion"]["note"]
    assert table.ranged(found["FM w/ Diffusion"], FD) == "none"


def test_a_mean_over_fewer_seeds_says_so(plan, trained):
    line = by_method(table.lines(plan, trained))["DDPM"]
    value = f"{FD}, seeds"
    assert "seeds" not in table.ranged(line, FD) and table.ranged(line | {value: 1}, FD).endswith(", 1 of 2 seeds")


def test_no_form_is_the_better_one_where_none_has_the_value(plan, trained):
    def better_in(found):
        head, *body = table.table(plan, found)
        notes = [dict(zip(head, line, strict=True)) for line in body]
        notes = [line["note"] for line in notes if line["method"].startswith("Score Matching")]
        return " ".join(note.partition("the better form in ")[2].partition(";")[0] for note in notes)

    assert "bits/dim" in better_in(trained)
    lost = trained
    for key in ("score-matching-raw", "ddpm"):  # whose training Score Matching (scaled) repeats
        lost = each_row(lost, key, lambda row: row | dict.fromkeys(("bits_per_dim", "bits_per_dim_k1")))
    assert "bits/dim" not in better_in(lost) and "NFE" in better_in(lost)


def test_a_form_that_draws_no_images_is_not_the_better_one_in_distance(plan, trained):
    blank = each_row(trained, "scoreflow-scaled", lambda row: row | {"samples_outside": 0.9})
    found = by_method(table.lines(plan, blank))
    assert FD in found["ScoreFlow (raw)"]["note"] and FD not in found["ScoreFlow (scaled)"]["note"]
    assert FD in by_method(table.lines(plan, trained))["ScoreFlow (scaled)"]["note"]


def test_nothing_measured_is_a_table_without_figures(plan):
    assert table.table(plan, [])[0] == ["method", "seeds", "note"]


def test_reports_and_solves_along_the_trainings_stand_in_csv_with_all_digits(trained):
    reports = list(csv.DictReader(table.reports_csv(trained).splitlines()))
    assert len(reports) == sum(len(one.records) for one in trained)
    assert set(reports[0]) == {"member", "training_seed", *table.REPORTED}
    assert float(reports[0]["grad_norm"]) == trained[0].records[0]["grad_norm"] and reports[0]["member"] == "FM w/ OT"
    solves = list(csv.DictReader(table.solving_csv(trained).splitlines()))
    assert [float(line["nfe"]) for line in solves[:4]] == [record["nfe"] for record in trained[0].solving]


def test_both_csv_hold_all_digits(plan, trained):
    lines = list(csv.DictReader(table.csv_of(plan, trained).splitlines()))
    assert float(by_method(lines)["DDPM"]["NFE, s.d."]) == 2**0.5
    rows = list(csv.DictReader(table.rows_csv(trained).splitlines()))
    assert len(rows) == sum(len(one.rows) + len(one.along) for one in trained)
    assert {row["kept"] for row in rows} == {"end", "along"} and {row["training_seed"] for row in rows} == {"0", "1"}


def test_another_recipe_is_not_subtracted(trained):
    plan = planned("cifar10", "full", changes=["model.channels=64", "training.total_images=256"])
    line = by_method(table.lines(plan, each_row(trained, "", full)))["FM w/ OT"]
    said = {value for key, value in line.items() if key.startswith("difference")}
    assert said == {"not comparable: of another recipe (model.channels, training.total_images)"}


def test_the_note_is_of_these_data(plan, trained):
    assert "real training images get" in table.table_note(plan, trained)
    against_training = each_row(trained, "", full)
    assert "real held-out images get" in table.table_note(planned("cifar10", "full"), against_training)
    assert "by 0.03 to 0.04 at the largest K" in table.table_note(planned("imagenet64"), trained)
    assert "Published bits/dim" not in table.table_note(plan, trained)

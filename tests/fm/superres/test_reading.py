from dataclasses import replace

from fm.superres.reading import final, of_method


def test_a_training_is_judged_by_its_finest_row(trained):
    regression, sr3 = trained[:2]
    assert final(sr3)["tolerance"] == 1e-4 and final(regression)["solver"] == "euler"
    assert final(replace(sr3, rows=())) is None
    assert final(replace(sr3, rows=sr3.rows[:1])) is None  # a coarser solver is no stand-in
    assert list(of_method(trained, "SR3-style")) == [0, 1] and of_method(trained, "none") == {}

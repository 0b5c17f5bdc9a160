from fm.paths import OTPath, VPPath
from fm.report import plane


def test_tables_stand_side_by_side_and_name_the_lower_one(section):
    distances, bits = plane.tables(section)
    assert distances[0][3:5] == ["OT: energy distance x 1000", "VP: energy distance x 1000"]
    assert distances[1] == ["midpoint", "even in t", "4", "20.00 ± 1.00", "10.00 ± 1.00", "2.00 ± 1.00", "VP"]
    assert [line[-1] for line in distances[1:]] == ["VP", "OT", "-"]
    assert bits[1][-2:] == ["1.625 ± 0.020", "0.125 ± 0.010"]
    assert bits[2][-2:] == ["not converged", "not converged"]
    assert bits[3][-2:] == ["1.500", "0"]


def test_captions_say_what_the_numbers_say(section):
    assert "OT is lower at 1, VP is lower at 1" in plane.of_distances(section)
    assert "at NFE 4 OT 0.02, VP 0.01" in plane.of_samples(section)
    assert "OT: length over chord 1.25 (median; mean 1.50), 10% of steps" in plane.of_trajectories(section)
    assert "t = 0, 0.5, 1" in plane.of_densities(section)
    assert "50 held-out points" in plane.of_bits(section)


def test_conditional_paths_of_ot_are_straight_and_vp_turns_and_overshoots():
    paths = {"OT": OTPath(), "VP": VPPath()}
    words = plane.of_conditional_paths(paths)
    assert "OT: length over chord 1.000, 0% of paths pass the star" in words
    assert "VP: length over chord 1.000" not in words and "VP: length over chord 1." in words
    assert "OT velocity 0.0 degrees" in plane.of_fields(paths)
    assert "VP velocity 0.0 degrees" not in plane.of_fields(paths)

from fm.estimating.units import aligned, in_bytes, in_time, short


def test_numbers_are_short_and_without_exponents() -> None:
    seconds = (0.0123, 12.3, 600, 40_000, 10**6)
    assert [in_time(s) for s in seconds] == ["12.3 ms", "12.3 s", "10 min", "11 h", "12 days"]
    assert [in_time(12_345 * 86_400), short(1.61e5), short(0.0141)] == ["12,000 days", "161,000", "0.0141"]
    assert [short(9.79e-5, 2), short(0, 2), short(1000)] == ["0.000098", "0", "1,000"]
    assert [in_bytes(n) for n in (12, 2048, 3.5 * 2**20, 2**34)] == ["12 B", "2 KiB", "3.5 MiB", "16 GiB"]


def test_a_table_has_its_numbers_to_the_right() -> None:
    assert aligned([("", "time", ""), ("a cell", "1 s", "words")]) == ["        time", "a cell   1 s  words"]

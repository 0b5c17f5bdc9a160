from pathlib import Path

from tasks.forwarding import LINES, Tails


def test_new_lines_of_every_rank_are_told_once_and_whole(tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "rank-0.log").write_text("of an earlier training\n")
    tails = Tails(tmp_path, told.append)
    with open(tmp_path / "rank-0.log", "a") as log:
        log.write("one\ntw")
    (tmp_path / "rank-1.log").write_text("other\n\n")
    tails.forward()
    tails.forward()
    assert told == ["rank 0: one", "rank 1: other"]
    with open(tmp_path / "rank-0.log", "a") as log:
        log.write("o\nthe last one has no end")
    tails.forward()
    assert told[2:] == ["rank 0: two"]
    tails.forward(last=True)
    assert told[3:] == ["rank 0: the last one has no end"] and tails.silent_s < 5


def test_a_flood_is_cut_and_the_file_named(tmp_path: Path) -> None:
    told: list[str] = []
    tails = Tails(tmp_path, told.append)
    log = tmp_path / "rank-0.log"
    log.write_text("".join(f"line {i}\n" for i in range(100)))
    tails.forward()
    assert told[:LINES] == [f"rank 0: line {i}" for i in range(LINES)]
    assert told[LINES:] == [f"rank 0: 80 lines more, in {log}"]
    with open(log, "a") as file:
        file.write("x" * 1_000_000 + "\nafter\n")
    told.clear()
    tails.forward()
    assert len(told) == 1 and told[0].startswith("rank 0: 0 lines and ") and told[0].endswith(f"bytes more, in {log}")
    with open(log, "a") as file:
        file.write("short\n" + "y" * 5000 + "\n")
    tails.forward()
    assert told[1] == "rank 0: short" and len(told[2]) < 1100

import base64
import re
from dataclasses import replace

import pytest
import torch

from fm.metrics.memorisation import memorisation
from fm.noise import draws
from fm.report.comparison_page import Drawn, Nearest, Pictures, file_name, write_page, write_tables

IMAGES = torch.randint(0, 256, (30, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
TIMES = (0.0, 0.5, 1.0)


@pytest.fixture
def pictures():
    rows = draws(0, "features", torch.arange(60), (3,))
    found = memorisation(rows[:20], rows[20:40], rows[40:])
    near = Nearest(found, IMAGES[:8], IMAGES[:24].unflatten(0, (8, 3)), 20, 20, 9000, 1000, "x")
    drawn = Drawn(IMAGES, IMAGES[:4].expand(3, -1, -1, -1, -1), near)
    return Pictures({"ot": drawn, "v_p": drawn}, TIMES, "midpoint, NFE 8, seed 0", ["far: no pictures of it"])


SOLVING = {"ot": [{"images_seen": 1000, "nfe": 40, "tolerance": 1e-3}], "v_p": []}


def test_the_page_holds_every_picture_by_itself_and_says_it_in_words(comparison, pictures, tmp_path):
    write_tables(tmp_path, comparison)
    text = write_page(tmp_path, comparison, SOLVING, pictures).read_text()
    files = {file.name: file.read_bytes() for file in (tmp_path / "report").iterdir()}
    shown = {base64.b64decode(data) for data in re.findall(r'base64,([^"]+)"', text)}
    assert shown == {data for name, data in files.items() if name.endswith(".png")} and len(shown) == 6
    assert {"nfe-fd_x.png", "error.png", "nfe-over-training.png", "samples.png", "trajectories.png"} < {*files}
    assert {"table.csv", "paired.csv", "table.tex", "nearest-ot.png", "nearest-v_p.png"} < {*files}
    assert all(len(words) > 20 for words in re.findall(r'alt="([^"]*)"', text)) and "http" not in text
    for said in (
        "ot against v_p",
        "ot better in 1 of 2",
        "v_p better in 0; not distinguishable 1; not compared 1",
        "far: no pictures of it.",
        "t = 0, t = 0.5, t = 1",
        "20 of 9,000",
        "runs/v_p: has no row of euler 16",
    ):
        assert said in text, said


def test_sections_without_content_are_left_out(comparison, pictures, tmp_path):
    for run in comparison.runs:
        for row in run.rows:
            row.pop("solution_error", None)
    text = write_page(tmp_path, comparison, {"ot": []}, Pictures({}, TIMES, "")).read_text()
    for absent in ("From the same noise", "Nearest training images", "converged\nsolution", "each checkpoint"):
        assert absent not in text
    alone = {name: replace(drawn, nearest=None) for name, drawn in pictures.drawn.items()}
    text = write_page(tmp_path, comparison, {}, replace(pictures, drawn=alone)).read_text()
    assert "From the same noise" in text and "Nearest training images" not in text


def test_names_become_file_names(comparison):
    assert file_name("a/run") == "a-run"

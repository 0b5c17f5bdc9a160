from dataclasses import replace
from html.parser import HTMLParser

import torch

from fm.report import Pictures, write_report

NAME = "fd_x"
IMAGES = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
PICTURES = Pictures(IMAGES, IMAGES, IMAGES[None].repeat(3, 1, 1, 1, 1), [0, 0.5, 1], "euler, 4 evaluations, seed 0")
RECORDS = [{"images_seen": 100 * i, "time": 1000.0 + i, "seconds": 2.0 * i, "loss": 1 / i} for i in range(1, 5)]


def a_row(method="FM w/ OT", value=400.0, bits=None, **values):
    row = {"key": "k", "method": method, "path": "ot", "solver": "euler", "nfe": 4, "tolerance": None, "samples": 30}
    row |= {"seed": 0, "seconds": 2.0, NAME: value, f"{NAME}_low": value - 9, f"{NAME}_high": value + 9}
    row |= {f"{NAME}_floor": 20.0, "bits_per_dim": bits, "bits_per_dim_stderr": bits and 0.1, "weights": "abc123"}
    return row | {"nll_converged": bits is not None, "nll_unconverged": -0.91} | values


class Page(HTMLParser):
    """Alternative texts, links and text of a page; complains about tags left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.images, self.links, self.words = [], [], [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "a":
            self.links.append(dict(attrs)["href"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def report(tmp_path, rows, **options):
    return Page(write_report(tmp_path, "A <title>", rows, RECORDS, PICTURES, **options).read_text())


def test_page_needs_no_other_file_and_says_each_picture_in_words(tmp_path):
    page = report(tmp_path, [a_row(bits=4.2), a_row("untrained", 2700.0, bits=8.6)])
    assert len(page.images) == 6
    assert all(i["src"].startswith("data:image/png;base64,") and len(i["alt"]) > 20 for i in page.images)
    assert not page.links and "url(" not in (tmp_path / "report.html").read_text()
    names = {"samples.png", "data.png", "trajectory.png", "loss.png", "distance.png", "bits_per_dim.png", "table.csv"}
    assert {f.name for f in (tmp_path / "report").iterdir()} == names


def test_headline_stands_beside_what_it_is_compared_with(tmp_path):
    words = report(tmp_path, [a_row(bits=4.2), a_row("untrained", 2700.0, bits=8.6)]).words
    for part in ("A <title>", "untrained 2700, 6.8 times higher; floor 20", "4.20", "untrained 8.60; uniform noise 8"):
        assert part in words
    assert "400 training images" not in words and "in 8 s of training" in words and "abc123" in words


def test_an_unconverged_value_is_on_no_part_of_the_page(tmp_path):
    words = report(tmp_path, [a_row()]).words
    assert "not converged" in words and "none" in words
    assert "0.91" not in words


def test_links_settings_and_commands(tmp_path):
    page = report(
        tmp_path,
        [a_row()],
        links={"MLflow": "http://127.0.0.1:5000/#/x"},
        settings={"training": {"batch_images": 64}},
        commands=[("fm sample R --n 64", "more samples")],
    )
    assert page.links == ["http://127.0.0.1:5000/#/x"]
    assert "training.batch_images64" in page.words and "fm sample R --n 64    # more samples" in page.words


def test_samples_by_class_have_a_row_each(tmp_path):
    by_class = {"cat": IMAGES[:4], "<script>": IMAGES[:4]}
    page = write_report(tmp_path, "t", [a_row()], RECORDS, replace(PICTURES, by_class=by_class))
    assert (tmp_path / "report" / "classes.png").exists() and "<h2>By class</h2>" in page.read_text()
    assert "By class" not in write_report(tmp_path, "t", [a_row()], RECORDS, PICTURES).read_text()


def test_the_same_noises_stand_beside_each_other_by_budget(tmp_path):
    by_budget = {"midpoint 10": IMAGES, "midpoint 20": IMAGES}
    page = write_report(tmp_path, "t", [a_row()], RECORDS, replace(PICTURES, by_budget=by_budget)).read_text()
    assert (tmp_path / "report" / "budgets.png").exists() and "with midpoint 10, midpoint 20 evaluations" in page

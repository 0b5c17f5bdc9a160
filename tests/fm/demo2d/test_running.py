import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fm.demo2d import running
from fm.demo2d.plan import PATHS, Plan
from fm.demo2d.running import run


def test_two_paths_end_on_one_page_and_the_second_start_changes_nothing(
    small: Plan, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    training = small.training.model_copy(update={"total_images": 5_120})
    plan = small.model_copy(update={"training": training})
    made = run(tmp_path, ["eight_gaussians"], plan)
    assert not made.unchanged and made.page == tmp_path / "report.html"
    html = made.page.read_text()
    HTMLParser().feed(html)
    assert html.count("data:image/png;base64,") == 6 and "http" not in html
    assert "Eight gaussians" in html
    text = made.text()
    assert text.splitlines()[0] == "eight_gaussians" and text.endswith(made.page.as_uri())
    assert len(made.rows) == 2 * (2 * len(plan.nfe) + 1)
    for path in PATHS:
        assert json.loads((tmp_path / f"eight_gaussians-{path.kind}" / "data.json").read_text())["shape"] == [2]
    capfd.readouterr()
    again = run(tmp_path, ["eight_gaussians"], plan)
    said = capfd.readouterr().err
    assert again.unchanged and again.page.read_text() == html
    assert said.count("unchanged (same recipe, sizes and code; 5,120 points seen, weights") == 2
    assert running.NAMES.keys() >= {path.kind for path in PATHS}

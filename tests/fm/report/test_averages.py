"""The page of averages: the nearest is named, the training's own is a level, each point a curve."""

import base64
import json
import re

from fm.report.averages import Measured, best, table, write_page
from tests.fm.test_comparing import a_row


def measured(*values: float, guidance: float = 0.0) -> list[Measured]:
    """One average after the other; the first is the training's own."""
    found = []
    for i, value in enumerate(values):
        length = None if i == 0 else 0.05 * i
        row = a_row(value, key=f"{i}{guidance}")
        row |= {"guidance": guidance} if guidance else {}
        found.append(Measured(length, None if i == 0 else 0.01 * i, f"runs/x/{i}", (row,)))
    return found


def test_the_nearest_is_named_with_its_error(tmp_path) -> None:
    found = measured(30.0, 28.0, 25.0, 27.0)
    one, row = best(found)
    assert (one.length, row["fd_x"]) == (0.1, 25.0)
    head, *lines = table(found)
    assert [line[0] for line in lines] == ["the training's own", "0.05", "0.1 (best)", "0.15"]
    assert [line[1] for line in lines] == ["", "1.0%", "2.0%", "3.0%"] and len(head) == len(lines[0])
    files = write_page(tmp_path, "x: averages", found, {"MLflow": "runs/mlflow"}, [("fm sample runs/x/2", "draw")])
    text = files[0].read_text()
    assert "Nearest by fd_x: 0.1," in text and "fm sample runs/x/2" in text and "http" not in text
    (shown,) = (base64.b64decode(data) for data in re.findall(r'base64,([^"]+)"', text))
    assert shown == (tmp_path / "report" / "sweep.png").read_bytes()
    assert json.loads((tmp_path / "report" / "sweep.json").read_text())["table"] == table(found)


def test_each_strength_of_guidance_is_a_curve_of_its_own(monkeypatch) -> None:
    from fm.report import averages

    kept = []

    def making():
        drawing, axes = made()
        kept.append(axes)
        return drawing, axes

    made = averages.axes_of_a_page
    monkeypatch.setattr(averages, "axes_of_a_page", making)
    both = [
        one._replace(rows=(*one.rows, *other.rows))
        for one, other in zip(measured(30.0, 28.0, 25.0), measured(31.0, 29.0, 26.0, guidance=1.0), strict=True)
    ]
    averages.sweep(both)
    assert len(kept[0].get_legend().get_texts()) == 2

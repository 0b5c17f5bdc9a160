import base64
import re

from fm.report.plane_page import write_page


def test_page_holds_every_picture_and_number_by_itself(section, tmp_path):
    files = write_page(tmp_path, [section], {"a": {"b": 1}}, [("fm demo2d", "again")])
    text = files[0].read_text()
    assert files[0] == tmp_path / "report.html" and all(file.exists() for file in files)
    shown = {base64.b64decode(data) for data in re.findall(r'base64,([^"]+)"', text)}
    assert shown == {file.read_bytes() for file in files if file.suffix == ".png"} and len(shown) == 6
    assert "Two moons" in text and "OT 1.25" in text and "VP 1.25; straight 1" in text
    assert "OT 0.125" in text and "VP none; exact 0" in text
    assert all(len(words) > 20 for words in re.findall(r'alt="([^"]*)"', text))
    assert "http" not in text and "a.b</td><td>1" in text
    assert len((tmp_path / "report" / "table.csv").read_text().splitlines()) == 7

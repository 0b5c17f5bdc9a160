import base64
import json
import re

import torch

from fm.beyond.page import write_page
from fm.beyond.plan import LINES, planned


def test_the_page_holds_all_by_itself(trained, tmp_path):
    pictures = {line: torch.randint(256, (3, 3, 3, 8, 8), dtype=torch.uint8) for line in LINES}
    plan = planned("photos", seeds=2)
    files = write_page(tmp_path, plan, trained, pictures, {"MLflow": "runs/mlflow"}, ["fm paper out --beyond"], "")
    text = files[0].read_text()
    assert all(file.is_file() for file in files) and files[0] == tmp_path / "report.html"
    shown = {base64.b64decode(data) for data in re.findall(r'base64,([^"]+)"', text)}
    assert shown == {file.read_bytes() for file in files if file.suffix == ".png"} and len(shown) == 2
    for said in ("12,800 images seen with 2 seeds", "This is a miniature", "fm paper out --beyond", "no likelihood"):
        assert said in text, said
    assert "http" not in text and text.count("(better)") >= 2
    found = json.loads((tmp_path / "report" / "claims.json").read_text())
    assert found["table"][0][0] == "method" and len(found["table"]) == 2 + len(LINES)
    assert found["note"] and found["claims"] == []  # what `fm paper` tells at its end, claims or none


def test_nothing_measured_and_marked_data_are_said(tmp_path):
    text = write_page(tmp_path, planned("photos", seeds=1), [], {}, {}, [], "holds 3 images")[0].read_text()
    assert "These are NOT the published data: holds 3 images" in text and "no images seen" in text

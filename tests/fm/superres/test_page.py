import base64
import json
import re

from fm.superres.page import table, write_page
from fm.superres.plan import planned


def test_the_table_has_a_line_for_each_and_the_published_beside(trained, bicubic):
    head, truth, *lines = table(trained, bicubic)
    assert [line[0] for line in lines] == ["Bicubic", "Regression", "SR3-style", "FM w/ OT"]
    assert truth[4] == "19" and truth[-4:] == ["1.9", "240.8", "", ""]
    ot = dict(zip(head[:9], lines[-1], strict=False))
    assert ot["PSNR"] == "24.75 ± 0.10" and ot["fd_efficientnet_lite0_b7"] == "34.5 ± 4" and ot["NFE"] == "60.5"
    assert lines[-1][-4:] == ["3.4", "200.8", "24.7", "0.747"] and lines[0][1:4] == ["", "", ""]
    assert all(len(line) == len(head) for line in (truth, *lines))
    assert table([], bicubic)[3][1] == "none"


def test_the_page_holds_all_by_itself(trained, bicubic, answers, tmp_path):
    plan = planned("photos", seeds=2)
    files = write_page(tmp_path, plan, trained, bicubic, answers, {"MLflow": "runs/mlflow"}, ["fm superres out"], "")
    text = files[0].read_text()
    assert all(file.is_file() for file in files) and files[0] == tmp_path / "report.html"
    shown = {base64.b64decode(data) for data in re.findall(r'base64,([^"]+)"', text)}
    assert shown == {file.read_bytes() for file in files if file.suffix == ".png"} and len(shown) == 4
    for said in (
        "16 -&gt; 64 px",
        "60,032 images seen with 2 seeds",
        "This is a miniature",
        "fm superres out",
        "runs/mlflow",
    ):
        assert said in text, said
    assert text.count(": shown</h3>") == 6 and "http" not in text
    found = json.loads((tmp_path / "report" / "claims.json").read_text())
    assert found["claims"][0]["verdict"] == "shown" and found["table"][0][0] == "method" and found["note"]


def test_nothing_measured_and_marked_data_are_said(bicubic, tmp_path):
    files = write_page(
        tmp_path,
        planned("imagenet"),
        [],
        {"method": "Bicubic", "solver": "", "tolerance": None},
        None,
        {},
        [],
        "holds 3 images",
    )
    text = files[0].read_text()
    assert "These are NOT the published data: holds 3 images" in text and "This is a miniature" not in text
    assert text.count(": not measured</h3>") == 6

import base64
import json
import re
from dataclasses import replace

import pytest
import torch

from fm.paper.page import _objectives, codes, write_page
from fm.paper.plan import planned

from .conftest import changed, swapped

COMMANDS = ["fm paper --dataset photos --scale mini --seeds 2"]


@pytest.fixture
def written(plan, tmp_path):
    strips = {"FM w/ OT": torch.zeros(3, 2, 3, 8, 8, dtype=torch.uint8)}

    def write(trained, marked=""):
        links = {"MLflow": "runs/mlflow"}
        files = write_page(tmp_path, plan, trained, strips, links, COMMANDS, marked, times=(0.0, 0.5, 1.0))
        return files, files[0].read_text()

    return write


def test_the_page_holds_all_by_itself(written, trained, tmp_path):
    files, text = written(trained)
    assert all(file.is_file() for file in files) and files[0] == tmp_path / "report.html"
    shown = {base64.b64decode(data) for data in re.findall(r'base64,([^"]+)"', text)}
    assert shown == {file.read_bytes() for file in files if file.suffix == ".png"} and len(shown) == 13
    assert "http" not in text and all(len(words) > 20 for words in re.findall(r'alt="([^"]*)"', text))
    for said in (
        "tiles of photographs, mini scale",
        "6 training objectives and FM w/ VE as an extra row on tiles of photographs",
        "against 1,000 held-out images",
        "80,128 images seen with 2 seeds",
        "This is a miniature",
        "Fewest evaluations: shown",
        "sigma_min of the OT path",
        COMMANDS[0],
        "runs/mlflow",
    ):
        assert said in text, said


def test_two_methods_swapped_are_said_not_to_show(written, trained):
    _, text = written(swapped(trained, "fm-ot", "score-matching-raw"))
    assert text.count(": not shown</h3>") == 12 and text.count("What would be needed") == 12


def test_the_claims_lie_beside_it_as_json(written, trained, tmp_path):
    written(trained)
    found = json.loads((tmp_path / "report" / "claims.json").read_text())
    assert [claim["verdict"] for claim in found["claims"]] == ["shown"] * 12 and found["claims"][0]["evidence"]
    assert found["table"][0][0] == "method" and found["note"] and "line for each seed" in found["captions"]["along"]
    assert found["seeds"] == 2 and "80,128 images seen with 2 seeds" in found["about"]


def test_rows_of_several_versions_of_the_code_are_said_loudly(written, trained):
    mixed = changed(trained, "ddpm", rows=tuple(row | {"code": "other"} for row in trained[2].rows))
    _, text = written(mixed)
    assert "WARNING: figures are of 2 versions of the code (c, other): measure them again" in text
    assert "WARNING" not in written(trained)[1]
    assert codes(mixed) == {"rows": "c, other", "trainings": "c"}


def test_a_training_that_tells_no_version_is_of_one_of_its_own(written, trained):
    _, text = written(changed(trained, "ddpm", trained_by=()))
    assert "WARNING: figures are of 2 versions of the code (c, not told): train them again" in text


def test_one_seed_is_a_caution_above_all_figures(written, trained):
    said = "There is one training seed, and one seed says nothing of the chance in the training"
    assert said in written([one for one in trained if one.seed == 0])[1] and said not in written(trained)[1]


def test_the_extra_row_is_no_objective_that_is_compared(trained):
    assert _objectives(trained) == "6 training objectives and FM w/ VE as an extra row"
    assert _objectives(trained[:1]) == "1 training objective"


def test_data_that_the_paper_has_not_are_said_to_be_none_of_its(written, trained, tmp_path):
    assert "The paper has no such data set" in written(trained)[1]
    cifar = planned("cifar10", "full")
    text = write_page(tmp_path, cifar, trained, {}, {}, [], "", times=())[0].read_text()
    assert "The paper has no such data set" not in text and "This is a miniature" not in text
    assert "rests on their counts, classes and resizing: their bytes" in text
    assert "rests on their counts" not in written(trained)[1]


def test_other_data_and_failures_are_said(written, trained):
    failed = [replace(one, failed="out of memory") if one.seed == 1 else one for one in trained]
    _, text = written(failed, marked="holds 9 train images")
    assert "NOT the published data: the data set holds 9 train images" in text
    assert "FM w/ OT, seed 1: out of memory." in text


def test_nothing_trained_is_a_page_too(written):
    _, text = written([])
    assert text.count(": not measured</h3>") == 12

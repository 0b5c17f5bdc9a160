from pathlib import Path
from typing import Any

import pytest

from flows.commands import papers
from fm.beyond.page import write_page
from fm.beyond.plan import planned


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--dataset", "photo"], "error: --dataset: unknown data set 'photo'; did you mean 'photos'?"),
        (["--dataset", "photos", "--scale", "minni"], "error: --scale: unknown scale 'minni'; did you mean 'mini'?"),
        (
            ["--dataset", "photos", "--methods", "fm-ott"],
            "error: --methods: unknown method 'fm-ott'; did you mean 'fm-ot'?",
        ),
        (["--dataset", "photos", "--methods", " "], "error: --methods: names none; leave it out for all of them"),
        (
            ["--dataset", "cifar10"],
            "error: --source: is missing, for CIFAR-10 does not come with this project; name its pictures: "
            "cifar-10-binary.tar.gz, or a folder that `fm prepare` filled",
        ),
        (["--dataset", "photos", "--source", "nowhere"], "error: nowhere: no such file or folder"),
        (["--dataset", "photos", "--set", "training.batch=3"], "error: --set: no such setting 'training.batch'"),
        (["s3://bucket/x", "--dataset", "photos"], "error: s3://bucket/x: is an address"),
    ],
)
def test_what_paper_refuses_before_anything_is_started(
    words: list[str], says: str, tmp_path: Path, command: Any
) -> None:
    done = command("paper", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(says) and len(done.stderr.splitlines()) == 1
    assert not any(tmp_path.iterdir())


def test_what_is_beyond_the_paper_is_told_at_the_end_as_the_papers_claims_are(tmp_path, capsys) -> None:
    page, *_ = write_page(tmp_path, planned("photos", seeds=1), [], {}, {}, [], "")
    papers._tell(page, as_json=False)
    told = capsys.readouterr().out
    assert "real training images" in told and told.endswith(f"report: {page.as_uri()}\n")


def test_a_comparison_that_takes_longer_than_allowed_is_refused_in_one_sentence(tmp_path: Path, command: Any) -> None:
    few = ["--set", "training.total_images=640", "--methods", "fm-ot", "--seeds", "1"]
    done = command("paper", "--dataset", "photos", "--hours", "0", "--json", *few, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("error: --hours: the comparison would take ")
    assert not any(tmp_path.iterdir())

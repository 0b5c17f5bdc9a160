from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--dataset", "photo"], "error: --dataset: unknown data set 'photo'; did you mean 'photos'?"),
        (["--dataset", "photos", "--methods", "sr4"], "error: --methods: unknown method 'sr4'; did you mean 'sr3'?"),
        (
            ["--dataset", "imagenet"],
            "error: --source: is missing, for ImageNet does not come with this project; name its pictures: "
            "ILSVRC2012_img_train.tar and _val.tar beside it, or a folder that `fm prepare` filled",
        ),
        (["--dataset", "photos", "--source", "nowhere"], "error: nowhere: no such file or folder"),
        (["--dataset", "photos", "--set", "path=vp"], "error: --set path: is what the comparison decides"),
        (["--dataset", "photos", "--set", "data.low_size=none"], "error: data.low_size: super-resolution learns from"),
        (["s3://bucket/x", "--dataset", "photos"], "error: s3://bucket/x: is an address"),
    ],
)
def test_what_superres_refuses_before_anything_is_started(
    words: list[str], says: str, tmp_path: Path, command: Any
) -> None:
    done = command("superres", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(says) and len(done.stderr.splitlines()) == 1
    assert not any(tmp_path.iterdir())

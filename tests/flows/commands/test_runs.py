from pathlib import Path
from typing import Any

import pytest
from PIL import Image


def test_sample_draws_a_grid(finished: Path, command: Any, tmp_path: Path) -> None:
    out = tmp_path / "grid.png"
    options = ["--n", "4", "--out", str(out), "--solver", "heun", "--nfe", "4"]
    done = command("sample", str(finished), *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "4 pictures in" in done.stdout
    first = out.read_bytes()
    with Image.open(out) as picture:
        assert picture.width > picture.height > 50
    command("sample", str(finished), *options, cwd=tmp_path)
    assert out.read_bytes() == first


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--solver", "eulr"], "unknown solver 'eulr'; did you mean 'euler'?"),
        (["--solver", "midpoint", "--nfe", "3"], "error: "),
        (["--class", "cat"], "not class-conditional"),
    ],
)
def test_sample_says_what_it_cannot_do(
    finished: Path, command: Any, tmp_path: Path, options: list[str], says: str
) -> None:
    done = command("sample", str(finished), "--n", "2", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fm.models import UNet


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


def test_an_address_is_sampled_as_the_folder_is(finished: Path, command: Any, s3: Any, tmp_path: Path) -> None:
    s3.put(str(finished), "bucket/finished", recursive=True)
    for run in (str(finished), "s3://bucket/finished"):
        name = f"{len(run)}.png"
        done = command("sample", run, "--n", "2", "--nfe", "2", "--out", name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    one, other = tmp_path.glob("*.png")
    assert one.read_bytes() == other.read_bytes()
    told = json.loads(command("status", "s3://bucket/finished", "--json", cwd=tmp_path).stdout)
    assert told == json.loads(command("status", str(finished), "--json", cwd=tmp_path).stdout) | {
        "report": told["report"]
    }
    assert told["report"].endswith("/finished/report.html") and told["checkpoint"] == 1920


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--solver", "eulr"], "unknown solver 'eulr'; did you mean 'euler'?"),
        (["--solver", "midpoint", "--nfe", "3"], "error: "),
        (["--class", "cat"], "not class-conditional"),
        (["--solver", "jump", "--guidance", "1", "--guide", "weaker"], "a jump is not guided"),
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


def test_import_makes_a_run_of_which_status_says_whose_it_is(command: Any, tmp_path: Path) -> None:
    net = UNet(16, 32, (1, 2), 1, (8,), head_channels=32, updown_blocks=False)
    torch.save({"net_model": {}, "ema_model": net.state_dict(), "step": 7}, tmp_path / "otcfm.pt")
    told = command("import", "otcfm.pt", "run", "--size", "16", "--set", "model.head_channels=32", cwd=tmp_path).stdout
    for stated in ("weights      ema_model", "t in [0, 1]", "pixels       k/127.5 - 1", "step         7"):
        assert stated in told
    status = json.loads(command("status", "run", "--json", cwd=tmp_path).stdout)
    assert (status["peer"], status["weights"], status["rows"]) == ("torchcfm", "ema_model", 0)
    refused = command("pipeline", "photos:", "run", "--preset", "tiny", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr == "error: run: is an imported network without an optimiser; train in another RUN\n"

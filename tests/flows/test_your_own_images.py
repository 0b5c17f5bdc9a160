"""The page `flows/YOUR_OWN_IMAGES.md`, command by command, on pictures of real photographs."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

PAGE = Path(__file__).parents[2] / "flows" / "YOUR_OWN_IMAGES.md"
COMMANDS = [
    line
    for block in re.findall(r"```\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for line in block.splitlines()
    if line.startswith("fm ")
]


def pictures(folder: Path, count: int, shift: int) -> None:
    """Crops of two photographs as JPEGs, a folder for each."""
    from skimage import data

    for name in ("astronaut", "coffee"):
        photo = Image.fromarray(getattr(data, name)())
        (folder / name).mkdir(parents=True)
        for i in range(count):
            x, y = (37 * i + shift) % (photo.width - 64), (53 * i + shift) % (photo.height - 64)
            photo.crop((x, y, x + 64, y + 64)).save(folder / name / f"{i:03d}.jpg", quality=92)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_of_the_page_does_what_it_says(services: Any, command: Any, tmp_path: Path) -> None:
    pictures(tmp_path / "my-pictures", 120, shift=0)
    pictures(tmp_path / "more-pictures", 30, shift=11)
    assert len(COMMANDS) == 11
    told = {}
    for line in COMMANDS:
        done = command(*shlex.split(line)[1:], cwd=tmp_path, limit_s=600)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        told[line] = done.stdout
    described, verified = told[COMMANDS[0]], told[COMMANDS[2]]
    assert "240" in described and "astronaut" in described and "digest" in verified
    assert Image.open(tmp_path / "grid.png").size[0] > 60
    assert (tmp_path / "runs" / "mine" / "report.html").exists()
    assert re.search(r"decision +accepted", told["fm promote runs/mine --model mine"])
    last = told[COMMANDS[-1]]
    assert re.search(r"decision +(accepted|refused)", last) and re.search(r"champion +[12]", last)

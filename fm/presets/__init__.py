"""The recipes that come with the project, one complete TOML file each: a file in this folder is a member.

Knows only names and text, so that a question about presets loads nothing heavy.
"""

import tomllib
from pathlib import Path

from fm.errors import SettingsError, nearest

FOLDER = Path(__file__).parent


def names() -> list[str]:
    return sorted(f.stem for f in FOLDER.glob("*.toml"))


def file(name: str) -> Path:
    """The preset's file.

    Raises: SettingsError that names the nearest preset.
    """
    if name not in names():
        raise SettingsError(f"unknown preset {name!r}", mend=nearest(name, names()))
    return FOLDER / f"{name}.toml"


def for_size(side: int) -> str | None:
    """The preset of the largest images no larger than pictures of that side; of several, the smallest network, and of
    those the one that draws times and noises as the paper does, which suits classes too."""
    known = {name: tomllib.loads(file(name).read_text()) for name in names()}
    plain = {name: preset for name, preset in known.items() if not preset.get("super_resolution")}
    fitting = [name for name, preset in plain.items() if preset["data"]["size"] <= side]

    def rank(name: str) -> tuple[int, int, bool]:
        preset, training = known[name], known[name]["training"]
        as_there = (training["times"]["kind"], training["coupling"]) == ("uniform", "independent")
        return preset["data"]["size"], -preset["model"]["channels"], as_there

    return max(fitting, key=rank, default=None)

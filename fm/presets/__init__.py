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
    """The preset of the largest images that are no larger than pictures of that side, if there is one."""
    sizes = {name: tomllib.loads(file(name).read_text())["data"]["size"] for name in names()}
    return max((name for name in sizes if sizes[name] <= side), key=sizes.__getitem__, default=None)

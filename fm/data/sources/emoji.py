"""`emoji:PATH`: pictures of emoji, a folder or tar whose files are named by code points (`1f44b-1f3fb.png`), split so
that nothing held out has a copy among the training pictures.

An emoji in its skin tones and presentations is one picture drawn several times, and some are drawn twice under two
names: all of these fall into one group, and a hash of the group decides. `emoji:PATH?holdout=0.1` sets the share.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from fm.data.decode import Rejected
from fm.data.order import words
from fm.data.sources import Item, Source, open_source, options
from fm.errors import SettingsError
from fm.lineage import digest

SCHEME = "emoji"
VARIANTS = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff", "fe0e", "fe0f"}  # skin tones (Unicode TS 51), presentations


@dataclass(frozen=True)
class Emoji(Source):
    """The pictures of another source, with splits by group; where it tells no labels, the folders' names are."""

    uri: str
    pictures: Source
    holdout: float

    def found(self) -> Iterable[Item]:
        items = list(self.pictures.items())
        held = self._held([(base(item.key), self._content(item)) for item in items])
        for item, out in zip(items, held, strict=True):
            label = item.label or PurePosixPath(item.key).parent.name or None
            yield replace(item, label=label, split="test" if out else "train")

    def _content(self, item: Item) -> str:
        """What tells copies from each other; a picture that cannot be read has none, and is refused when it is due."""
        try:
            return item.key if item.fault else hashlib.sha256(self.read(item)).hexdigest()
        except Rejected:
            return item.key

    def _held(self, pairs: list[tuple[str, str]]) -> list[bool]:
        """Which pictures are held out, each given by its base and the hash of its bytes."""
        group: dict[str, str] = {}  # name -> another of its group, at last the least

        def least(name: str) -> str:
            while (above := group.setdefault(name, name)) != name:
                name = above
            return name

        for base_name, content in pairs:
            a, b = sorted((least(base_name), least(f"~{content}")))
            group[b] = a
        share = {root: (words(1, SCHEME, root)[0] >> 11) / 2**53 for root in {least(name) for name, _ in pairs}}
        return [bool(share[least(name)] < self.holdout) for name, _ in pairs]

    def read(self, item: Item) -> bytes:
        return self.pictures.read(item)

    def digest(self) -> str:
        return digest(SCHEME, self.pictures.digest(), self.holdout)


def base(key: str) -> str:
    """What a picture shows, whatever its skin tone: its file's code points without those of `VARIANTS`."""
    return "-".join(part for part in PurePosixPath(key).stem.lower().split("-") if part not in VARIANTS)


def fits(path: str) -> bool:
    return False  # a folder of pictures is a folder: that they are emoji has to be said


def open_uri(rest: str) -> Source:
    """Raises: SettingsError for a share that leaves nothing to train or to judge by; as `open_source`."""
    path, given = options(rest, SCHEME, ("holdout",))
    try:
        share = float(given.get("holdout", 0.1))
    except ValueError:
        share = 0.0
    if not 0 < share <= 0.5:
        raise SettingsError("is no share from 0 to 0.5", f"{SCHEME}: holdout={given['holdout']}", "for example 0.1")
    return Emoji(f"{SCHEME}:{rest}", open_source(path), share)

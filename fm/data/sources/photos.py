"""`photos:`: class-labelled JPEG tiles of the colour photographs that scikit-image's wheel ships. Needs no network.

Each photograph is laid out in cells, and about every seventh is held out before any tile is drawn: held-out tiles lie
inside held-out cells, training tiles anywhere that touches none. So both see all of a photograph's kinds of texture,
and no pixel is in both. `photos:?tiles=300` sets the training tiles of each photograph; 15 % as many are held out.
"""

import importlib.util
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fm.data.order import words
from fm.data.sources import Item, Source, options
from fm.errors import DataError, SettingsError
from fm.files import sha256
from fm.lineage import digest

SCHEME = "photos"
Box = tuple[int, int, int, int]  # left, top, right, bottom in photograph pixels


@dataclass(frozen=True)
class Photograph:
    """File in the wheel; which of the seven lattices of cells is held out: the one whose histogram and detail are most
    like the whole photograph's; and the area to use, if not all of it."""

    file: str
    lattice: int
    inside: Box | None = None


# By class. Of the motorcycle's stereo pair one: the other shows the same scene, and would leak what is held out.
PHOTOGRAPHS = {
    "astronaut": Photograph("astronaut.png", 2),
    "cat": Photograph("chelsea.png", 0),
    "coffee": Photograph("coffee.png", 3),
    "hubble_deep_field": Photograph("hubble_deep_field.jpg", 0),
    "immunohistochemistry": Photograph("ihc.png", 3),
    "motorcycle": Photograph("motorcycle_left.png", 6),
    "retina": Photograph("retina.jpg", 6, inside=(210, 210, 1200, 1200)),  # round, on plain black
    "rocket": Photograph("rocket.jpg", 2),
}
SIDES = (48, 64, 96)  # of the tiles, in photograph pixels
CELL = 96  # the least side of a cell: the largest tile fits
TILES = 1000
HELD_OUT_SHARE = 0.15
JPEG_QUALITY = 95


@dataclass(frozen=True)
class Photos(Source):
    """`tiles` training tiles of each photograph, in equal numbers of each side; a sample's JSON has photograph, box
    and scale (the tile's side in photograph pixels)."""

    uri: str
    tiles: int

    def found(self) -> Iterator[Item]:
        for name, photograph in PHOTOGRAPHS.items():
            area = photograph.inside or (0, 0, *_size(name))
            held = held_cells(area, photograph.lattice)
            for split, count in (("train", self.tiles), ("test", max(1, round(self.tiles * HELD_OUT_SHARE)))):
                for number in range(len(SIDES)):
                    share = (count + number) // len(SIDES)
                    yield from _tiles(name, split, SIDES[number], share, area, held)

    def read(self, item: Item) -> bytes:
        file = io.BytesIO()
        _photograph(item.meta["photograph"]).crop(tuple(item.meta["box"])).save(file, "JPEG", quality=JPEG_QUALITY)
        return file.getvalue()

    def digest(self) -> str:
        files = [sha256(_path(name)) for name in PHOTOGRAPHS]
        return digest(SCHEME, files, JPEG_QUALITY, [(item.key, item.meta) for item in self.items()])


def held_cells(area: Box, lattice: int) -> list[Box]:
    """The held-out cells of a photograph's area: one of seven lattices, in which no two cells touch."""
    xs, ys = _edges(area[0], area[2]), _edges(area[1], area[3])
    return [
        (xs[column], ys[row], xs[column + 1], ys[row + 1])
        for row in range(len(ys) - 1)
        for column in range(len(xs) - 1)
        if (column + 3 * row) % 7 == lattice
    ]


def _edges(low: int, high: int) -> list[int]:
    count = (high - low) // CELL
    return [low + (high - low) * i // count for i in range(count + 1)]


def _tiles(name: str, split: str, side: int, count: int, area: Box, held: list[Box]) -> list[Item]:
    """`count` tiles at random places: inside a held-out cell (test), or in the area and touching none (train)."""
    cells = np.array(held if split == "test" else [area])
    boxes = np.empty((0, 4), np.int64)
    for block in range(1000):  # each block keeps an eighth at the very least
        if len(boxes) >= count:
            break
        boxes = np.concatenate([boxes, _places(words(3 * 1024, SCHEME, name, split, side, block), side, cells)])
        if split == "train":
            boxes = boxes[~touches(boxes, held)]
    return [
        Item(
            key=f"{name}/{split}-{side:03d}-{number:06d}",
            label=name,
            split=split,
            meta={"photograph": name, "box": box, "scale": side},
        )
        for number, box in enumerate(boxes[:count].tolist())
    ]


def _places(random: NDArray[np.uint64], side: int, cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, 4) boxes of one side, each inside a cell that is chosen at random, from 3 n random words."""
    pick, right, down = (random.reshape(3, -1) >> np.uint64(1)).astype(np.int64)
    cell = cells[pick % len(cells)]
    left = cell[:, 0] + right % (cell[:, 2] - cell[:, 0] - side + 1)
    top = cell[:, 1] + down % (cell[:, 3] - cell[:, 1] - side + 1)
    return np.stack([left, top, left + side, top + side], axis=1)


def touches(boxes: NDArray[np.int64], held: list[Box]) -> NDArray[np.bool_]:
    """Which of the (n, 4) boxes share a pixel with any of the held ones."""
    a, b = boxes[:, None], np.array(held)[None]
    overlap = (a[..., :2] < b[..., 2:]) & (b[..., :2] < a[..., 2:])
    return np.any(np.all(overlap, axis=-1), axis=-1)


def _path(name: str) -> Path:
    """The photograph's file in the wheel: found, not imported, so nothing is loaded and nothing can be downloaded."""
    found = importlib.util.find_spec("skimage")
    folders = list(found.submodule_search_locations or ()) if found else []
    for folder in folders:
        path = Path(folder, "data", PHOTOGRAPHS[name].file)
        if path.is_file():
            return path
    raise DataError("scikit-image's photographs are not installed", where="photos:", mend="install scikit-image")


def _size(name: str) -> tuple[int, int]:
    with Image.open(_path(name)) as image:
        return image.size


@lru_cache(maxsize=len(PHOTOGRAPHS))
def _photograph(name: str) -> Image.Image:
    with Image.open(_path(name)) as image:
        return image.convert("RGB")


def fits(path: str) -> bool:
    return False


def open_uri(rest: str) -> Photos:
    uri = f"{SCHEME}:{rest}"
    path, chosen = options(rest, SCHEME, ("tiles",))
    tiles = chosen.get("tiles", str(TILES))
    if path or (rest and not chosen):
        raise SettingsError("has no folders or files", where=uri, mend="write `photos:` or `photos:?tiles=300`")
    if not (tiles.isdecimal() and 1 <= int(tiles) <= 100_000):
        raise SettingsError("tiles is not a number from 1 to 100,000", where=uri, mend="write `photos:?tiles=300`")
    return Photos(uri=uri, tiles=int(tiles))

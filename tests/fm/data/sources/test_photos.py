import io
import json
import socket
import tarfile
from collections import defaultdict

import numpy as np
import pytest
from PIL import Image

from fm.data import Preparation, ShardedImages, open_source, write_shards
from fm.data.sources import photos as module
from fm.errors import DataError, SettingsError


def facts(root):
    found = []
    for path in sorted((root / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            found += [json.load(tar.extractfile(m)) for m in tar if m.name.endswith(".json")]
    return found


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def test_no_held_out_box_touches_a_training_box(photos):
    boxes = defaultdict(lambda: defaultdict(list))
    for fact in facts(photos):
        boxes[fact["photograph"]][fact["split"]].append(fact["box"])
        assert fact["class"] == fact["photograph"] and fact["scale"] in module.SIDES
        left, top, right, bottom = fact["box"]
        assert right - left == bottom - top == fact["scale"] == fact["width"]
    assert set(boxes) == set(module.PHOTOGRAPHS)
    for split in boxes.values():
        assert len(split["train"]) == 24 and len(split["test"]) == 4
        assert not any(overlap(a, b) for a in split["train"] for b in split["test"])


def test_the_whole_default_set_keeps_apart_too():
    """By the pixels: those under training tiles and those under held-out tiles are disjoint."""
    items = module.open_uri("").items()
    for name in module.PHOTOGRAPHS:
        width, height = module._size(name)
        seen = {"train": np.zeros((height, width), bool), "test": np.zeros((height, width), bool)}
        mine = [item for item in items if item.label == name]
        for item in mine:
            left, top, right, bottom = item.meta["box"]
            assert left >= 0 and top >= 0 and right <= width and bottom <= height
            seen[item.split][top:bottom, left:right] = True
        assert not (seen["train"] & seen["test"]).any()
        assert len([item for item in mine if item.split == "train"]) == 1000 and len(mine) == 1150
        sides, counts = np.unique([item.meta["scale"] for item in mine], return_counts=True)
        assert sides.tolist() == [48, 64, 96] and np.ptp(counts) <= 2
        area = module.PHOTOGRAPHS[name].inside or (0, 0, width, height)
        whole = (area[2] - area[0]) * (area[3] - area[1])
        assert seen["train"].sum() > 0.6 * whole and seen["test"].sum() > 0.08 * whole


def test_held_out_cells_are_most_like_the_photograph():
    """Each lattice was chosen for histogram and detail: no other of its photograph is nearer by more than a little."""

    def detail(pixels):
        return np.abs(np.diff(pixels, axis=1)).mean()

    def histogram(pixels):
        flat = pixels.reshape(-1, 3)
        return np.concatenate([np.histogram(flat[:, c], 32, (0, 256))[0] for c in range(3)]) / len(flat)

    for name, photograph in module.PHOTOGRAPHS.items():
        picture = np.asarray(module._photograph(name), float)
        area = photograph.inside or (0, 0, *module._size(name))
        whole = picture[area[1] : area[3], area[0] : area[2]]
        scores = []
        for lattice in range(7):
            cells = [picture[b[1] : b[3], b[0] : b[2]] for b in module.held_cells(area, lattice)]
            far = np.abs(histogram(np.concatenate([c.reshape(-1, 3) for c in cells])) - histogram(whole)).sum() / 6
            scores.append(far + abs(np.log(np.mean([detail(c) for c in cells]) / detail(whole))))
        assert scores[photograph.lattice] <= min(scores) + 0.05, (name, np.round(scores, 3))


def test_tiles_are_the_photographs_pixels(photos):
    """A tile is a JPEG of its box, squeezed: close to the box of the photograph itself."""
    source = open_source("photos:?tiles=3")
    for item in source.items():
        picture = module._photograph(item.label).crop(item.meta["box"]).resize((16, 16), Image.Resampling.BOX)
        pixels = np.asarray(picture, float)
        data = source.read(item)
        assert data[:3] == b"\xff\xd8\xff"
        tile = np.asarray(Image.open(io.BytesIO(data)).resize((16, 16), Image.Resampling.BOX), float)
        assert np.abs(tile - pixels).mean() < 4


def test_no_network_is_needed(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(socket, "socket", refuse)
    manifest = write_shards(open_source("photos:?tiles=1"), tmp_path, Preparation(size=8))
    assert manifest.images == 16 and not manifest.rejected and len(ShardedImages(tmp_path, "test").classes) == 8


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("photos:?tile=3", "unknown option 'tile'; did you mean 'tiles'"),
        ("photos:?tiles=0", "tiles is not a number from 1"),
        ("photos:?tiles=many", "tiles is not a number from 1"),
        ("photos:?tiles=", "tiles is not a number from 1"),
        ("photos:cats", "photos:cats: has no folders or files; write `photos:`"),
    ],
)
def test_bad_options(uri, words):
    with pytest.raises(SettingsError, match=words.replace("?", r"\?")):
        open_source(uri)


def test_without_scikit_image(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="not installed; install scikit-image"):
        open_source("photos:").items()

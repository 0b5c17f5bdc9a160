from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from fm.data import Preparation, ShardedImages, open_source, write_shards
from fm.errors import DataError, SettingsError, ValueUserError
from fm.metrics import DISTANCES, load_features
from fm.reference import HELDOUT, TRAINING, order
from fm.scoring import score_pictures

NAME = "fd_random_conv"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_shards(open_source("photos:?tiles=60"), root, Preparation(size=32))
    return root


def saved(data: Path, split: str, folder: Path, blur: float = 0.0, most: int = 10_000) -> Path:
    """The pictures of a split as PNGs, in the order in which evaluations take them."""
    images = ShardedImages(data, split)
    folder.mkdir()
    for place, pixels in enumerate(images.gather(order(len(images))[:most])):
        Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(blur)).save(folder / f"{place:05d}.png")
    return folder


def test_held_out_pictures_get_the_floor_and_blurring_them_raises_it(data: Path, tmp_path: Path) -> None:
    features, heldout = load_features("random_conv"), len(ShardedImages(data, HELDOUT))
    rows = [
        score_pictures(
            open_source(str(saved(data, HELDOUT, tmp_path / str(blur), blur))), str(data), features, reference=TRAINING
        )
        for blur in (0, 1, 2, 4)
    ]
    values = [row[NAME] for row in rows]
    assert rows[0]["samples"] == heldout and values[0] == rows[0][f"{NAME}_floor"]
    assert values == sorted(values) and values[1] > 1.05 * values[0] and values[3] > 2 * values[0]
    assert rows[0][f"{NAME}_low"] < values[0] < rows[0][f"{NAME}_high"]
    assert len({row["pictures_digest"] for row in rows}) == 4


def test_the_same_pictures_are_at_no_distance_from_themselves(data: Path, tmp_path: Path) -> None:
    features, source = load_features("random_conv"), open_source(str(saved(data, HELDOUT, tmp_path / "own")))
    row = score_pictures(source, str(data), features, ("fd", "kid"))
    assert abs(row[NAME]) < 1e-6 and row[f"{NAME}_floor"] > 0.01 and row["kid_random_conv"] < 0
    few = score_pictures(source, str(data), features, most=30)
    real = features(torch.from_numpy(ShardedImages(data, HELDOUT).gather(order(row["samples"]))).permute(0, 3, 1, 2))
    assert few["samples"] == 30 and few[NAME] == pytest.approx(DISTANCES["fd"](real[:30], real), rel=1e-6)


def test_pictures_that_cannot_be_scored_are_named(data: Path, tmp_path: Path) -> None:
    features, folder = load_features("random_conv"), saved(data, HELDOUT, tmp_path / "few", most=25)

    def score(**options: object) -> None:
        score_pictures(open_source(str(folder)), str(data), features, **options)  # type: ignore[arg-type]

    with pytest.raises(SettingsError, match="unknown distance 'fid'"):
        score(distances=("fid",))
    Image.fromarray(np.zeros((16, 20, 3), np.uint8)).save(folder / "00003.png")
    with pytest.raises(DataError, match=r"00003.*: is 20 x 16, the data set's images are 32 x 32"):
        score()
    (folder / "00003.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=r"00003.*: is no picture"):
        score()
    with pytest.raises(ValueUserError, match="10 pictures are too few"):
        score(most=10)

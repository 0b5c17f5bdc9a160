"""Small pictures: enlarged as Pillow does, brought down as the preparation does, refused where they do not belong."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fm.data.resize import pair
from fm.enlarging import bicubic, check_pairs, enlarged, shrunk, small_picture
from fm.errors import SettingsError, UserError, ValueUserError
from fm.pixels import to_unit


def pictures(n: int, side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(side)
    return torch.randint(256, (n, 3, side, side), generator=generator, dtype=torch.uint8)


def test_enlarging_is_pillows_bicubic() -> None:
    """On float planes: on bytes Pillow rounds and clips between rows and columns."""
    low = pictures(2, 8)
    for one, ours in zip(to_unit(low), enlarged(low, 20), strict=True):
        planes = [Image.fromarray(plane.numpy()).resize((20, 20), Image.Resampling.BICUBIC) for plane in one]
        torch.testing.assert_close(ours, torch.from_numpy(np.stack([np.asarray(p) for p in planes])), rtol=0, atol=1e-5)
    assert bicubic(low, 20).dtype == torch.uint8


def test_a_flat_picture_stays_what_it_is() -> None:
    flat = torch.full((1, 3, 4, 4), 200, dtype=torch.uint8)
    assert torch.equal(bicubic(flat, 16), torch.full((1, 3, 16, 16), 200, dtype=torch.uint8))


def test_shrunk_is_what_the_preparation_makes() -> None:
    images = pictures(3, 32)
    for image, small in zip(images, shrunk(images, 8), strict=True):
        made = pair(Image.fromarray(image.permute(1, 2, 0).numpy()), "box", 32, 8)[1]
        assert np.array_equal(small.permute(1, 2, 0).numpy(), np.asarray(made))


def test_pictures_that_are_not_small_are_refused() -> None:
    with pytest.raises(ValueUserError, match=r"s < 8"):
        enlarged(pictures(1, 8), 8)


def test_a_picture_of_a_file_is_taken_around_its_centre(tmp_path: Path) -> None:
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert torch.equal(small_picture(tmp_path / "wide.png", 8), torch.full((3, 8, 8), 255, dtype=torch.uint8))
    (tmp_path / "note.txt").write_text("no picture")
    with pytest.raises(UserError, match=r"note.txt: cannot be taken: .*; give another picture"):
        small_picture(tmp_path / "note.txt", 8)
    with pytest.raises(UserError, match=r"none.png: no such file"):
        small_picture(tmp_path / "none.png", 8)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ((False, None, "regression", "independent"), "objective: regression learns from small pictures alone"),
        ((True, None, "flow_matching", "independent"), "data.low_size: super-resolution learns from pairs"),
        ((True, 8, "flow_matching", "minibatch_ot"), "training.coupling: minibatch_ot matches noise to images across"),
    ],
)
def test_what_does_not_go_together_is_refused(given: tuple[bool, int | None, str, str], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        check_pairs(*given)
    check_pairs(True, 8, "regression", "independent")
    check_pairs(False, 8, "flow_matching", "minibatch_ot")

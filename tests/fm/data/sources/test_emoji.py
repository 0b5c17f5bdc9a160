import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from fm.data import open_source
from fm.data.sources.emoji import base
from fm.errors import DataError, SettingsError


def a_picture(look, shade=0):
    """Noise of its own for each look; a shade lighter it is another file that looks alike."""
    grey = np.random.default_rng(look).integers(40, 215, (8, 8, 3)) + shade
    file = io.BytesIO()
    Image.fromarray(grey.astype(np.uint8)).resize((32, 32), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def tar(tmp_path):
    """40 emoji, each in three skin tones, and each once more under another name; and a file that is no picture."""
    pictures = {f"people/{0x1F440 + i:x}{tone}.png": a_picture(3 * i + n) for i in range(40) for n, tone in TONES}
    pictures |= {f"signs/{0x2700 + i:x}-fe0f.png": a_picture(3 * i, shade=5) for i in range(40)}
    pictures["signs/27ff.png"] = b"nothing"
    with tarfile.open(tmp_path / "all.tar", "w") as out:
        for name, content in pictures.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))
    return tmp_path / "all.tar"


TONES = ((0, ""), (1, "-1f3fb"), (2, "-1F3FF"))


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("activities/1f004", "1f004"),
        ("people/1f44b-1F3FB", "1f44b"),
        ("a/1f468-1f3fb-200d-1f91d-200d-1f468-1f3fc.png", "1f468-1f91d-1f468"),
        ("people/1f9d9-1f3fd-200d-2640-fe0f", "1f9d9"),
        ("signs/2640-fe0f", "2640-fe0f"),
        ("activities/1f396-fe0f", "1f396"),
    ],
)
def test_the_base_is_the_emoji_without_its_skin_tones(key, shown):
    assert base(key) == shown


def test_no_copy_of_a_held_out_picture_is_trained_on(tar):
    source = open_source(f"emoji:{tar}?holdout=0.3")
    items = source.items()
    splits = {item.key.rpartition("/")[2]: item.split for item in items}
    for i in range(40):
        names = [f"{0x1F440 + i:x}{tone}" for _, tone in TONES] + [f"{0x2700 + i:x}-fe0f"]
        assert len({splits[name] for name in names}) == 1
    counts = [sum(item.split == split for item in items) for split in ("train", "test")]
    assert len(items) == 161 and 0.1 < counts[1] / 161 < 0.5
    assert {item.label for item in items} == {"people", "signs"}
    assert {item.key: item.split for item in open_source(f"emoji:{tar}?holdout=0.3").items()} == {
        item.key: item.split for item in items
    }


def test_its_digest_is_of_pictures_and_share(tar):
    digests = {open_source(f"emoji:{tar}{more}").digest() for more in ("", "?holdout=0.1", "?holdout=0.2")}
    assert len(digests) == 2


def test_what_is_refused(tar, tmp_path):
    for share in ("0", "0.6", "many"):
        with pytest.raises(SettingsError, match=r"is no share from 0 to 0\.5"):
            open_source(f"emoji:{tar}?holdout={share}")
    with pytest.raises(DataError, match="no such file or folder"):
        open_source(f"emoji:{tmp_path}/none")

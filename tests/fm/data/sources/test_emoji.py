import io
import tarfile

import pytest
from PIL import Image

from fm.data import open_source
from fm.data.sources.emoji import base
from fm.errors import DataError, SettingsError


def a_picture(colour):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def tar(tmp_path):
    """40 emoji, each in three skin tones, and one drawn a second time under another name."""
    pictures = {f"people/{0x1F440 + i:x}{tone}.png": (i, len(tone), 9) for i in range(40) for tone in TONES}
    pictures |= {f"signs/{0x2700 + i:x}-fe0f.png": (i, 0, 9) for i in range(40)}
    with tarfile.open(tmp_path / "all.tar", "w") as out:
        for name, colour in pictures.items():
            content = a_picture(colour)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))
    return tmp_path / "all.tar"


TONES = ("", "-1f3fb", "-1F3FF")


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("activities/1f004", "1f004"),
        ("people/1f44b-1F3FB", "1f44b"),
        ("a/1f468-1f3fb-200d-1f91d-200d-1f468-1f3fc.png", "1f468-200d-1f91d-200d-1f468"),
        ("activities/1f396-fe0f", "1f396"),
    ],
)
def test_the_base_is_the_emoji_without_its_skin_tones(key, shown):
    assert base(key) == shown


def test_no_copy_of_a_held_out_picture_is_trained_on(tar):
    source = open_source(f"emoji:{tar}?holdout=0.3")
    items = source.items()
    groups = {}
    for item in items:
        content = source.read(item)
        for name in (base(item.key), content):
            groups.setdefault(name, set()).add(item.split)
    assert all(len(splits) == 1 for splits in groups.values())
    counts = [sum(item.split == split for item in items) for split in ("train", "test")]
    assert len(items) == 160 and 0.1 < counts[1] / 160 < 0.5
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

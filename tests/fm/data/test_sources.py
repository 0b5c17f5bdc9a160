import hashlib
import pickle
import re

import numpy as np
import pytest

from fm.data import Preparation, ShardedImages, Source, open_source, write_shards
from fm.data.preparation import prepare
from fm.data.sources import KEEPABLE, members, parted, readable
from fm.errors import DataError
from tests.fm.data import forms


def test_every_member_joins():
    assert {"folder", "photos", "tars", "imagenet", "npz", "cifar10"} <= set(members())
    for module in members().values():
        assert callable(module.open_uri) and module.fits("no such path, surely") is False


@pytest.mark.parametrize(
    ("given", "kept", "query"),
    [
        ("s3://b/x-{0..9}.tar", "s3://b/x-{0..9}.tar", ""),
        ("tars:https://h/x.tar?X-Amz-Signature=S&a=1", "tars:https://h/x.tar", "X-Amz-Signature=S&a=1"),
        ("imagenet:https://h/x.tar?sig=S&labels=kit", "imagenet:https://h/x.tar?labels=kit", "sig=S"),
        ("photos:?tiles=300", "photos:?tiles=300", ""),
        ("tars:/data/x-?.tar", "tars:/data/x-?.tar", ""),
        ("C:/x-?.tar", "C:/x-?.tar", ""),
    ],
)
def test_what_a_server_alone_needs_is_not_kept(given, kept, query):
    assert parted(given) == (kept, query)
    assert re.match(KEEPABLE, kept) and bool(re.match(KEEPABLE, given)) == (not query)


@pytest.mark.parametrize("uri", ["photos:", "folder:{folder}", "{folder}", "tars:{photos}", "{photos}"])
def test_sources_are_picklable_and_stable(uri, folder, photos):
    source = open_source(uri.format(folder=folder, photos=photos))
    again = pickle.loads(pickle.dumps(source))
    assert isinstance(source, Source) and again == source and again.digest() == source.digest()
    items = source.items()
    assert again.items() == items and len({item.key for item in items}) == len(items)
    assert again.read(items[0]) == source.read(items[0])


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("photo:", "unknown kind of source 'photo'; did you mean 'photos'"),
        ("nowhere://bucket/x", "nowhere://bucket/x/\\*.tar: cannot be read .fsspec knows no nowhere://.; known: abfs"),
        ("no/such/folder", "no/such/folder: no such file or folder"),
        ("folder:no/such", "no such folder"),
        ("tars:no/such", "no tar files there"),
        ("", "no such file or folder"),
    ],
)
def test_bad_addresses_are_one_sentence(uri, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=words):
        open_source(uri)


def test_an_empty_folder_and_a_file_that_is_no_source(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing to see")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(DataError, match="no pictures in it"):
            open_source(path)


def test_names_that_are_not_utf_8():
    assert readable("caf\udce9") == "caf\\xe9" and readable("café") == "café"


def contents(source, out):
    """(class name, digest of the image) of every prepared picture, and the class names in the labels' order."""
    write_shards(source, out, Preparation(size=16, accept_missing=True))
    data = ShardedImages(out)
    return sorted((data.classes[label], hashlib.sha256(image).hexdigest()) for image, label in data), data.classes


def test_the_same_photographs_in_every_form_are_the_same_data_set(tmp_path, s3):
    """As folder, tar of tars, batches, WebDataset here and in S3, and CIFAR's two archives."""
    names, pictures = {"cat": 3, "astronaut": 1, "coffee": 2}, {}
    tiles = open_source("photos:?tiles=6")
    for item in tiles.items():
        if item.label in names and item.split == "train":
            pictures.setdefault(item.label, []).append(prepare(tiles.read(item), Preparation(size=32)).pixels)
    here = [
        forms.folder(tmp_path / "folder", pictures),
        forms.imagenet_train(tmp_path / "x.tar", pictures),
        forms.downsampled(tmp_path / "npz", pictures, names),
        forms.downsampled(tmp_path / "npz-small", pictures, names, save=np.savez_compressed),
        forms.downsampled_pickles(tmp_path / "pickles", pictures, names),
        forms.webdataset(tmp_path / "web", pictures),
        forms.cifar10(tmp_path / "cifar-10-binary.tar.gz", pictures, pictures, binary=True),
        forms.cifar10(tmp_path / "cifar-10-python.tar.gz", pictures, pictures, binary=False),
    ]
    s3.put(str(tmp_path / "web"), "s3://bucket/same", recursive=True)
    due, classes = contents(open_source(here[0]), tmp_path / "out-0")
    assert len(set(due)) == 18 and classes == ["astronaut", "cat", "coffee"]
    for number, form in enumerate([*here[1:], "s3://bucket/same"], start=1):
        found, classes = contents(open_source(form), tmp_path / f"out-{number}")
        assert classes == ["astronaut", "cat", "coffee"]
        assert found == (due if "cifar" not in str(form) else sorted(2 * due)), form  # train and test alike there

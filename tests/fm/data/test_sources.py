import pickle

import pytest

from fm.data import Source, open_source
from fm.data.sources import members, readable
from fm.errors import DataError


def test_every_member_joins():
    assert {"folder", "photos", "tars"} <= set(members())
    for module in members().values():
        assert callable(module.open_uri) and module.fits("no such path, surely") is False


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
        ("nowhere://bucket/x", "nowhere://bucket/x/\\*.tar: cannot be read .ValueError: Protocol not known: nowhere"),
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

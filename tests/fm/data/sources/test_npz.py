import io
import pickle
import zipfile
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fm.data import open_source
from fm.data.sources import npz
from fm.errors import DataError, SettingsError
from tests.fm.data import forms

IDS = {"n03": 1, "n01": 2, "n02": 3}
FORMS = {
    "stored": forms.downsampled,
    "compressed": partial(forms.downsampled, save=np.savez_compressed),
    "pickled by Python 2": forms.downsampled_pickles,
    "pickled by Python 3": partial(forms.downsampled_pickles, dump=partial(pickle.dumps, protocol=2)),
}


@pytest.fixture
def pictures(noises):
    return {name: noises(5, seed=number) for name, number in IDS.items()}


def pixels(source, item):
    return np.load(io.BytesIO(source.read(item))).tobytes()


@pytest.mark.parametrize("form", FORMS)
def test_batches_are_the_pictures_under_their_wnids(tmp_path, pictures, form):
    root = FORMS[form](tmp_path / "in", pictures, IDS)
    source = open_source(root)
    found = {name: set() for name in IDS}
    for item in source.items():
        found[item.label].add(pixels(source, item))
        assert item.split == "train"
    assert found == {name: {picture.tobytes() for picture in arrays} for name, arrays in pictures.items()}
    assert source.items()[0].key == "train_data_batch_1/0000000" and source.expected() == {}


def test_splits_counts_and_names(tmp_path, pictures):
    forms.downsampled(tmp_path, pictures, IDS, batches=10)
    forms.downsampled(tmp_path, {"n02": pictures["n02"]}, IDS, batches=1, prefix="val_data", mean=False)
    source = open_source(f"npz:{tmp_path}")
    assert {(item.split, item.key.split("/")[0]) for item in source.items()} >= {("test", "val_data")}
    assert source.expected() == {"train": 1_281_167, "test": 50_000}
    alone = open_source(tmp_path / "val_data.npz")
    assert {item.label for item in alone.items()} == {"n02"}
    digest = alone.digest()
    (tmp_path / "map_clsloc.txt").rename(tmp_path / "list.txt")
    with pytest.raises(
        DataError, match=r"its labels are numbers of map_clsloc.txt, .* `npz:.*\?names=none` for numbers"
    ):
        open_source(tmp_path)
    assert open_source(f"npz:{tmp_path}/val_data.npz?names={tmp_path}/list.txt").digest() == digest
    numbers = open_source(f"npz:{tmp_path}?names=none")
    assert {item.label for item in numbers.items()} == {"0001", "0002", "0003"} and numbers.digest() != digest
    (tmp_path / "list.txt").write_text("n09 1 x\n")
    with pytest.raises(DataError, match=r"label . is not in .*list.txt"):
        open_source(f"npz:{tmp_path}?names={tmp_path}/list.txt").items()
    with pytest.raises(SettingsError, match="unknown option 'name'; did you mean 'names'"):
        open_source(f"npz:{tmp_path}?name=none")
    with pytest.raises(DataError, match="no train_data_batch_1"):
        open_source(f"npz:{tmp_path}/none")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"data": np.zeros((4, 3 * 31), np.uint8), "labels": np.arange(4)}, r"its data are uint8 \(4, 93\)"),
        ({"data": np.zeros((4, 12), np.float32), "labels": np.arange(4)}, "its data are float32"),
        ({"data": np.zeros((4, 12), np.uint8), "labels": np.arange(3)}, "its labels are not 4 whole numbers"),
        ({"data": np.zeros((4, 12), np.uint8)}, "is not a whole .npz of the arrays data and labels"),
        ({"labels": np.arange(4)}, "is not a whole .npz of the arrays data and labels"),
        ({"data": np.array([None, 1]), "labels": np.arange(2)}, r"its data are object \(2,\)"),
        ({"data": np.zeros((4, 12), np.uint8), "labels": np.array([None] * 4)}, "is not a whole .npz"),
        ({"data": np.asfortranarray(np.zeros((4, 12), np.uint8)), "labels": np.arange(4)}, "columns first"),
    ],
)
def test_wrong_arrays_are_one_sentence(tmp_path, content, says):
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **content)
        with pytest.raises(DataError, match=says):
            open_source(f"npz:{tmp_path}/x.npz?names=none").items()


@pytest.mark.parametrize(
    "content",
    [
        {"data": np.zeros((4, 93), np.uint8), "labels": [1] * 4},
        {"data": np.zeros((4, 12), np.uint8), "labels": [1] * 3},
        {"data": [[0] * 12], "labels": [1]},
        {"labels": [1]},
        [1, 2],
    ],
)
def test_wrong_pickles_are_one_sentence(tmp_path, content):
    (tmp_path / "val_data").write_bytes(pickle.dumps(content, 2))
    with pytest.raises(DataError, match=r"val_data: (its (data|labels) are|is not a pickle of plain arrays)"):
        open_source(f"npz:{tmp_path}/val_data?names=none").items()


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_damage_anywhere_is_pictures_or_one_sentence(tmp_path, pictures, data):
    save = data.draw(st.sampled_from([np.savez, np.savez_compressed]))
    root = forms.downsampled(tmp_path / "whole", pictures, IDS, batches=1, prefix="val_data", save=save)
    content = (root / "val_data.npz").read_bytes()
    places = st.integers(0, len(content) - 1) | st.integers(0, 200) | st.integers(len(content) - 300, len(content) - 1)
    at = data.draw(places)
    path = tmp_path / "val_data.npz"
    path.write_bytes(content[:at] + data.draw(st.binary(max_size=9)) + content[at + data.draw(st.integers(0, 9)) :])
    npz._rows.cache_clear()
    try:
        source = npz.open_uri(f"{path}?names={root}/map_clsloc.txt")
        for item in source.items():
            source.read(item)
    except DataError as error:
        assert "val_data.npz: " in str(error)


def test_more_than_the_rows_is_not_unpacked(tmp_path, monkeypatch):
    """16 MiB in a file of 17 kB."""
    monkeypatch.setenv("FM_CACHE", str(tmp_path / "cache"))
    rows, labels = io.BytesIO(), io.BytesIO()
    np.save(rows, np.zeros((4, 12), np.uint8))
    np.save(labels, np.arange(4))
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.npy", rows.getvalue() + bytes(2**24))
        archive.writestr("labels.npy", labels.getvalue())
    with pytest.raises(DataError, match=r"x.npz: does not hold the 4 rows that it says"):
        open_source(f"npz:{tmp_path}/x.npz?names=none").items()
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size]

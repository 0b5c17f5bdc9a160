import gzip
import io
import pickle
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fm.data import open_source
from fm.data.sources import cifar10
from fm.errors import DataError
from tests.fm.data import forms

NAMES = ("airplane", "bird", "cat")
FORMS = {
    "cifar-10-binary.tar.gz": partial(forms.cifar10, binary=True),
    "cifar-10-python.tar.gz": partial(forms.cifar10, binary=False),
}


@pytest.fixture
def two_sets(noises):
    return [{name: noises(6, seed=10 * s + n, side=32) for n, name in enumerate(NAMES)} for s in (1, 2)]


@pytest.mark.parametrize("name", FORMS)
def test_both_archives(tmp_path, two_sets, name):
    path = FORMS[name](tmp_path / name, *two_sets)
    source = open_source(tmp_path if "python" in name else path)
    found = {"train": {}, "test": {}}
    for item in source.items():
        pixels = np.load(io.BytesIO(source.read(item)))
        found[item.split].setdefault(item.label, set()).add(pixels.tobytes())
    for split, pictures in zip(("train", "test"), two_sets, strict=True):
        assert found[split] == {name: {picture.tobytes() for picture in arrays} for name, arrays in pictures.items()}
    assert source.items()[0].key == "data_batch_1/00000" and source.expected()["test"] == 10_000


def test_python_3_pickles(tmp_path, two_sets):
    path = forms.cifar10(tmp_path / "x.tar.gz", *two_sets, binary=False, dump=partial(pickle.dumps, protocol=2))
    assert {item.label for item in open_source(f"cifar10:{path}").items()} == set(NAMES)


def test_what_is_no_such_archive(tmp_path, two_sets):
    path = tmp_path / "cifar-10-binary.tar.gz"
    whole = forms.cifar10(path, *two_sets, binary=True).read_bytes()

    def says():
        with pytest.raises(DataError) as caught:
            open_source(path).items()
        return str(caught.value)

    path.write_bytes(whole[: len(whole) // 2])
    assert "is not a whole .tar.gz" in says()
    path.write_text("<html>")
    assert "is not a whole .tar.gz" in says()
    path.write_bytes(gzip.compress(forms.tar_bytes([("data_batch_1.bin", b"12")])))
    assert "batches.meta.txt is not in it; fetch it again" in says()
    row = bytes(cifar10.ROW_BYTES + 1)
    batches = [(f"{name}.bin", row) for name in cifar10.BATCHES]
    path.write_bytes(gzip.compress(forms.tar_bytes([*batches, ("batches.meta.txt", b"\n")])))
    assert "data_batch_1 has a label 0, which has no name" in says()
    path.write_bytes(
        gzip.compress(forms.tar_bytes([("batches.meta.txt", b"a"), *batches[1:], (batches[0][0], row[1:])]))
    )
    assert "data_batch_1.bin: its length is not a multiple of 3073" in says()
    batches = [(name, pickle.dumps({"data": np.zeros((2, 9), np.uint8), "labels": [0]}, 2)) for name in cifar10.BATCHES]
    path.write_bytes(gzip.compress(forms.tar_bytes([*batches, ("batches.meta", pickle.dumps({}, 2))])))
    assert "data_batch_1: its data are uint8 (2, 9)" in says()
    with pytest.raises(DataError, match=r"no cifar-10-binary.tar.gz or"):
        open_source(f"cifar10:{tmp_path}/none")


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_damage_anywhere_is_pictures_or_one_sentence(tmp_path, noises, data):
    pictures = {"a": noises(1, side=32)}
    content = forms.cifar10(tmp_path / "whole", pictures, pictures, binary=data.draw(st.booleans())).read_bytes()
    if data.draw(st.booleans()):
        content = gzip.decompress(content)
    at = data.draw(st.integers(0, len(content) - 1))
    content = content[:at] + data.draw(st.binary(max_size=9)) + content[at + data.draw(st.integers(0, 9)) :]
    path = tmp_path / "x.tar.gz"
    path.write_bytes(content if content[:2] == b"\x1f\x8b" else gzip.compress(content, 1))
    cifar10._unpacked.cache_clear()
    try:
        source = cifar10.open_uri(str(path))
        for item in source.items():
            source.read(item)
    except DataError as error:
        assert "x.tar.gz: " in str(error)

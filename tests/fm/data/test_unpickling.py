import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fm.data.unpickling import unpickle
from fm.errors import DataError
from tests.fm.data.forms import python_2_pickle

VALUE = {
    "data": np.arange(12, dtype=np.uint8).reshape(2, 6),
    "labels": [3, 1],
    "mean": np.ones(6, np.float32),
    "n": None,
}


class Evil:
    def __reduce__(self):
        return os.mkdir, ("made-by-a-pickle",)


@pytest.mark.parametrize("dump", [python_2_pickle, *(lambda v, p=p: pickle.dumps(v, p) for p in (2, 3, 4))])
def test_arrays_of_either_python(dump):
    found = unpickle(dump(VALUE), "x")
    assert found.keys() == VALUE.keys() and found["labels"] == [3, 1] and found["n"] is None
    for name in ("data", "mean"):
        assert found[name].dtype == VALUE[name].dtype and (found[name] == VALUE[name]).all()


@pytest.mark.parametrize("inside", [lambda e: e, lambda e: {"data": e}, lambda e: {"data": np.array([e, 1], object)}])
@pytest.mark.parametrize("protocol", range(6))
def test_nothing_runs(inside, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"x: is not a pickle of plain arrays \(it asks for posix.mkdir\)"):
        unpickle(pickle.dumps(inside(Evil()), protocol), "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "code", [b"cbuiltins\neval\n(V1\ntR.", b"cnumpy\nload\n(V/etc/passwd\ntR.", b"c_codecs\nencode\n(VAAAA\nVzip\ntR."]
)
def test_nothing_by_its_name(code):
    with pytest.raises(DataError, match="is not a pickle of plain arrays"):
        unpickle(code, "x")


@given(st.data())
def test_any_bytes_end_in_a_dictionary_or_a_sentence(data):
    whole = data.draw(st.sampled_from([python_2_pickle(VALUE), pickle.dumps(VALUE, 2), pickle.dumps(VALUE, 4)]))
    at = data.draw(st.integers(0, len(whole) - 1))
    try:
        unpickle(whole[:at] + data.draw(st.binary(max_size=8)) + whole[at + data.draw(st.integers(0, 8)) :], "x")
    except DataError as error:
        assert "x: is not a pickle of plain arrays" in str(error)

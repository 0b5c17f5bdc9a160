"""The place of a run: what can be asked for."""

import pydantic
import pytest

from tasks.place import Place


def test_a_bare_place_is_two_workers_on_this_machine() -> None:
    assert Place().model_dump() == {
        "address": "",
        "workers": 2,
        "fewest_workers": 0,
        "gpus": "auto",
        "wait_s": 60.0,
        "silent_s": 3600.0,
        "cache": "",
        "features": "",
    }


@pytest.mark.parametrize(
    "wrong", [{"workers": 0}, {"gpus": "some"}, {"wait_s": -1}, {"fewest_workers": -1}, {"gpu": 1}]
)
def test_what_cannot_be_is_refused(wrong: dict) -> None:
    with pytest.raises(pydantic.ValidationError):
        Place(**wrong)


def test_the_fewest_are_no_more_than_the_workers() -> None:
    assert (Place(workers=3).fewest, Place(workers=3, fewest_workers=2).fewest) == (3, 2)
    with pytest.raises(pydantic.ValidationError, match="3 is more than workers, 2"):
        Place(fewest_workers=3)

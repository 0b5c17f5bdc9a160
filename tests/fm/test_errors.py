import pickle

import pytest

from fm import errors
from fm.errors import SettingsError, UserError, ValueUserError, member, nearest, several

CHILDREN = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, UserError)]


def test_is_one_sentence_of_where_what_and_mend() -> None:
    said = str(UserError("ends early at byte 1,048,576", where="imagenet.tar", mend="download it again"))
    assert said == "imagenet.tar: ends early at byte 1,048,576; download it again"
    assert str(UserError("ends early")) == "ends early"


@pytest.mark.parametrize("kind", CHILDREN)
def test_survives_pickling(kind: type[UserError]) -> None:
    back = pickle.loads(pickle.dumps(kind("wrong", "there", "mend it")))
    assert type(back) is kind
    assert (back.what, back.where, back.mend) == ("wrong", "there", "mend it")


def test_numeric_ones_are_value_errors() -> None:
    assert issubclass(errors.NumericalError, ValueError)
    assert issubclass(ValueUserError, ValueError)


def test_names_the_nearest_member() -> None:
    assert nearest("dmo", ["tiny", "demo"]) == "did you mean 'demo'? known: demo, tiny"
    assert nearest("xyz", ["tiny", "demo"]) == nearest("mode", ["tiny", "demo"]) == "known: demo, tiny"
    assert nearest("FM w/ OT", ["fm-ot", "fm-vp"]).startswith("did you mean 'fm-ot'?")
    assert nearest("CIFAR-10", ["cifar10", "photos"]).startswith("did you mean 'cifar10'?")
    assert member("a", {"a": 1}, "letter") == 1
    with pytest.raises(SettingsError, match="here: unknown letter 'b'; known: a"):
        member("b", {"a": 1}, "letter", where="here")


def test_one_is_not_many() -> None:
    assert [several(n, "worker") for n in (0, 1, 2048)] == ["0 workers", "1 worker", "2,048 workers"]

from pathlib import Path

from fm.data import Preparation
from fm.lineage import canonical, code_digest, digest, leaves


def test_equal_values_have_equal_digests_whatever_their_order() -> None:
    assert digest({"a": 1, "b": 2.5}) == digest({"b": 2.5, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest("a", "b") != digest("ab")
    assert len(digest()) == 16


def test_settings_and_paths_have_a_form() -> None:
    assert canonical(Path("a")) == '"a"'
    assert digest(Preparation(size=32)) == digest(Preparation(size=32)) != digest(Preparation(size=64))


def test_the_code_has_a_digest() -> None:
    assert len(code_digest()) == 16


def test_leaves_have_their_whole_path() -> None:
    assert leaves({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}

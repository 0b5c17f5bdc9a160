from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from pydantic import Field, field_validator

from fm.errors import SettingsError, ValueUserError
from fm.parsing import fields, parse
from fm.settings import Settings


class A(Settings):
    kind: Literal["a"] = "a"
    x: int = Field(1, ge=0)

    @field_validator("x")
    @classmethod
    def _small(cls, x: int) -> int:
        if x > 9:
            raise ValueUserError(f"{x} is too large", mend="take 9")
        return x


class B(Settings):
    kind: Literal["b"] = "b"
    y: int = 2


class Both(Settings):
    one: Annotated[A | B, Field(discriminator="kind")]
    last: int


@dataclass(frozen=True)
class Plain:
    size: float = 1.0


def test_plain_values_become_settings() -> None:
    assert parse(Both, {"one": {"kind": "b", "y": 3}, "last": 1}) == Both(one=B(y=3), last=1)
    assert parse(Plain, {"size": 2}) == Plain(2.0)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"one": {"kind": "a", "x": -1}, "last": 1}, "it: one.x: -1 given, but input should be greater than or equal"),
        ({"one": {"kind": "a", "x": 10}, "last": 1}, "it: one.x: 10 is too large; take 9"),
        ({"one": {"kind": "c"}, "last": 1}, "it: one: unknown one 'c'; known: a, b"),
        ({"one": {"kind": "b"}}, "it: last: is missing; a recipe states every setting"),
        (
            {"one": {"kind": "b"}, "lst": 1, "last": 1},
            "it: lst: no such setting; did you mean 'last'? known: last",
        ),
    ],
)
def test_the_first_complaint_is_one_sentence(values: dict, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(Both, values, "it")
    assert str(caught.value).startswith(says) and "\n" not in str(caught.value)


def test_fields_of_a_union_are_its_members() -> None:
    assert set(fields(fields(Both)["one"])) == {"kind", "x", "y"}
    assert set(fields(fields(Both)["one"], "b")) == {"kind", "y"}
    assert fields(int) == {}

from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from fm.settings import Settings, listed


class A(Settings):
    kind: Literal["a"] = "a"
    x: int = Field(1, ge=0)


class B(Settings):
    kind: Literal["b"] = "b"
    y: int = 2


class Both(Settings):
    first: int
    one: Annotated[A | B, Field(discriminator="kind")]


def test_frozen_and_closed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        A().x = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        A(z=1)  # type: ignore[call-arg]


def test_the_schema_is_what_both_form_pages_can_show() -> None:
    schema = Both.model_json_schema()
    text = str(schema)
    assert "oneOf" not in text and "'const'" not in text and "discriminator" not in text
    assert [option["$ref"] for option in schema["properties"]["one"]["anyOf"]] == ["#/$defs/A", "#/$defs/B"]
    assert schema["$defs"]["A"]["properties"]["kind"]["enum"] == ["a"]
    assert [schema["properties"][name]["position"] for name in ("first", "one")] == [0, 1]


def test_settings_are_listed_by_dotted_keys_with_what_they_take() -> None:
    found = list(listed(Both, {"first": 3, "one": {"kind": "a", "x": 5}}))
    assert [(one.key, one.takes, one.value) for one in found] == [
        ("first", "whole number", 3),
        ("one.kind", "a | b", "a"),
        ("one.x", "whole number from 0", 5),
    ]
    plugged = listed(Both, {"first": 3, "one": {"kind": "mine:A", "z": 5}})
    assert [one.key for one in plugged] == ["first", "one.kind"]  # its own code knows the rest

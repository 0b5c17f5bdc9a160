from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from fm.settings import Settings


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

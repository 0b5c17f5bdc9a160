"""The base of all settings: frozen, complete, no unknown keys, and a JSON schema that Prefect's forms can show.

Settings live beside the code they set; `fm/recipe.py` only joins them. A member of a family that stands in a recipe (a
path, a time law, a network) is a frozen pydantic dataclass or `Settings` with a `kind`.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict


def for_forms(schema: dict[str, Any]) -> None:
    """Makes a JSON schema readable by both of Prefect's form pages.

    They show a union's members by name only under `anyOf` with `enum`, not under `oneOf` with `const`; fields appear in
    the order of their `position`.
    """
    for position, field in enumerate(schema.get("properties", {}).values()):
        field["position"] = position
        if "oneOf" in field:
            field["anyOf"] = field.pop("oneOf")
            field.pop("discriminator", None)
        if "const" in field:
            field["enum"] = [field.pop("const")]


CONFIG = ConfigDict(extra="forbid", json_schema_extra=for_forms, allow_inf_nan=False)  # for frozen dataclasses


class Settings(BaseModel):
    """Frozen values with ranges, units and descriptions on each field."""

    model_config = CONFIG | ConfigDict(frozen=True)

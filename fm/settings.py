"""The base of all settings: frozen, complete, no unknown keys, and a JSON schema for Prefect's forms and for lists.

Settings live beside the code they set; `fm/recipe.py` only joins them. A member of a family that stands in a recipe (a
path, a time law, a network) is a frozen pydantic dataclass or `Settings` with a `kind`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Setting:
    """One line of a list of settings."""

    key: str  # as `--set` names it
    takes: str  # its type and range, in words
    value: Any
    description: str


def listed(kind: type[Settings], values: dict[str, Any]) -> Iterator[Setting]:
    """Every setting that plain values of this kind hold, nested ones by their dotted keys."""
    schema = kind.model_json_schema()
    yield from _listed(schema, values, schema["$defs"], "")


def _listed(schema: dict[str, Any], values: dict[str, Any], known: dict[str, Any], prefix: str) -> Iterator[Setting]:
    for name, field in schema["properties"].items():
        value, key, described = values.get(name), prefix + name, field.get("description", "")
        members = [_resolved(member, known) for member in field.get("anyOf", [field])]
        families = {_kind(member): member for member in members if "properties" in member}
        if not isinstance(value, dict):
            takes = " or ".join(_in_words(member, known) for member in members)
            yield Setting(key, takes, value, described)
            continue
        if None not in families:
            yield Setting(f"{key}.kind", " | ".join(map(str, families)), value.get("kind"), described)
        chosen = families.get(value.get("kind"))  # none of a plug-in, whose options its own code knows
        if chosen:
            fields = {name: f for name, f in chosen["properties"].items() if name != "kind"}
            yield from _listed({"properties": fields}, value, known, f"{key}.")


def _resolved(schema: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    return known[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _kind(schema: dict[str, Any]) -> str | None:
    """The name of a member of a family."""
    named = schema["properties"].get("kind", {})
    return named["enum"][0] if "enum" in named else None


def _in_words(schema: dict[str, Any], known: dict[str, Any]) -> str:
    """`whole number, 1 to 1,000`, `true or false`, `fp32 | bf16`."""
    schema = _resolved(schema, known)
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        if "prefixItems" in schema:
            return f"list of {len(schema['prefixItems'])}: {_in_words(schema['prefixItems'][0], known)}"
        return f"list of: {_in_words(schema['items'], known)}"
    if "properties" in schema:
        return f"{{{', '.join(schema['properties'])}}}"
    kinds = {"integer": "whole number", "number": "number", "boolean": "true or false", "null": "none"}
    names = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    bounds = [f"{word} {schema[name]:,.10g}" for name, word in names.items() if name in schema]
    return " ".join([kinds.get(schema.get("type", ""), "text"), *bounds])

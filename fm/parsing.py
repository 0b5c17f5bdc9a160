"""Plain values -> settings, and pydantic's complaints as one sentence; what fields a kind of settings has.

Loads no torch, so that a wrong option is answered at once.
"""

import json
import tomllib
import types
import typing
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from fm.errors import SettingsError, UserError, nearest

T = TypeVar("T")


def parse(kind: type[T], values: Any, source: str = "") -> T:
    """Settings of that kind (a pydantic model or a dataclass) from plain values.

    Raises: SettingsError, one sentence about the first value that is wrong.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise _translated(kind, error, source) from None


def pair(change: str) -> tuple[str, Any]:
    """`key=value`, the value as TOML says it; a bare word is a string, and none is no value."""
    key, sign, value = change.partition("=")
    if not sign or not key.strip():
        raise SettingsError(
            f"{change!r} is not of the form key=value", "--set", "for example training.batch_images=128"
        )
    if value.strip() == "none":
        return key.strip(), None
    try:
        return key.strip(), tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def fields(kind: Any, member: str | None = None) -> dict[str, Any]:
    """Names and types of the fields of settings; of a union those of the named member, or of all."""
    members = [m for m in _members(kind) if member is None or _kind_of(m) == member] or _members(kind)
    return {name: hint for m in members for name, hint in _hints(m).items()}


def _translated(kind: Any, error: ValidationError, source: str) -> SettingsError:
    """pydantic's first complaint as one sentence: the key's path, the value, its range or the nearest name."""
    first = error.errors(include_url=False)[0]
    keys, known = _followed(kind, first["loc"])
    where = ": ".join(filter(None, [source, ".".join(keys)]))
    if first["type"] == "extra_forbidden":
        return SettingsError("no such setting", where, nearest(keys[-1], known))
    if first["type"] == "missing":
        return SettingsError("is missing", where, "a recipe states every setting")
    if first["type"] == "union_tag_invalid":
        tags = [_kind_of(member) or "" for member in _members(known[keys[-1]])]
        return SettingsError(f"unknown {keys[-1]} {first['ctx']['tag']!r}", where, nearest(first["ctx"]["tag"], tags))
    ours = first.get("ctx", {}).get("error")
    if isinstance(ours, UserError):  # raised by a validator of ours, which does not know its own place
        return SettingsError(ours.what, ".".join(filter(None, [where, ours.where])), ours.mend)
    if first["type"] in ("bool_parsing", "bool_type"):
        return SettingsError(f"{json.dumps(first['input'], default=str)} given, but it is true or false", where)
    message = first["msg"][:1].lower() + first["msg"][1:]
    return SettingsError(f"{json.dumps(first['input'], default=str)} given, but {message}", where)


def _followed(kind: Any, loc: tuple[Any, ...]) -> tuple[list[str], dict[str, Any]]:
    """The keys of a place in nested settings as a user writes them, without pydantic's names of union members; and the
    fields that are known beside the last of them."""
    keys: list[str] = []
    known: dict[str, Any] = {}
    for part in loc:
        if part in [_kind_of(member) for member in _members(kind)] and len(_members(kind)) > 1:
            kind = next(member for member in _members(kind) if _kind_of(member) == part)
            continue
        known = fields(kind)
        kind = known.get(part)
        keys.append(str(part))
    return keys, known


def _members(kind: Any) -> list[Any]:
    if typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    return list(typing.get_args(kind)) if typing.get_origin(kind) in (typing.Union, types.UnionType) else [kind]


def _hints(kind: Any) -> dict[str, Any]:
    if not isinstance(kind, type):
        return {}
    names = getattr(kind, "model_fields", None) or getattr(kind, "__dataclass_fields__", {})
    hints = typing.get_type_hints(kind, include_extras=True)
    return {name: hints[name] for name in names}


def _kind_of(member: Any) -> str | None:
    args = typing.get_args(_hints(member).get("kind"))
    return args[0] if args else None

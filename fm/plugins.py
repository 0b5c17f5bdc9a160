"""Members of a family from outside the project, by import path: `--set path=my_package.paths:MyPath`.

A recipe with such a name runs that module's code wherever the recipe is used: in training, in evaluation, on `fm.load`.
Load only recipes whose modules you trust. Modules are looked for in the working folder too, after all that is
installed; each process imports them anew.
"""

import importlib
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from inspect import isabstract
from typing import Any, TypeVar

from pydantic import GetCoreSchemaHandler, TypeAdapter
from pydantic_core import core_schema

from fm import errors
from fm.errors import SettingsError
from fm.parsing import parse

T = TypeVar("T")


@dataclass(frozen=True)
class Due:
    """What a plug-in of a family has to be: in words, and as a test."""

    words: str
    fits: Callable[[Any], bool]


def derived(base: type) -> Due:
    """A concrete class derived from `base`."""
    methods = ", ".join(sorted(base.__abstractmethods__))  # type: ignore[attr-defined]

    def fits(found: Any) -> bool:
        return isinstance(found, type) and issubclass(found, base) and not isabstract(found)

    return Due(f"a class derived from {base.__module__}.{base.__name__} with its {methods}", fits)


def named(name: Any) -> bool:
    """Whether a name is an import path, `package.module:Name`, and not that of a member of the project."""
    return isinstance(name, str) and ":" in name


def member(name: str, family: dict[str, T], due: Due, what: str, where: str = "") -> T:
    """The family's member of that name, or what an import path leads to.

    Raises: SettingsError that names the nearest member, or says why the import path leads to none.
    """
    return imported(name, due, where) if named(name) else errors.member(name, family, what, where)


def imported(name: str, due: Due, where: str = "") -> Any:
    """What stands at an import path.

    Raises: SettingsError if it cannot be imported, or is not what is due.
    """
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module may raise anything
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        mend = "as package.module:Name it must lead into a module that is installed or stands in the working folder"
        raise SettingsError(f"{name!r} cannot be imported ({reason})", where, mend) from error
    if not due.fits(found):
        raise SettingsError(f"{name!r} is not what is due", where, f"name {due.words}")
    return found


@dataclass(frozen=True)
class OrPlugin:
    """Beside a union's members, told by their `kind`: any dataclass derived from `base`, whose kind is its import path.

    Stands in the union's annotation. Its fields are its settings. The members and the JSON schema stay as they are.
    """

    base: type

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        plain = core_schema.wrap_serializer_function_ser_schema(self._plain)
        return core_schema.no_info_wrap_validator_function(self._settings, handler(source), serialization=plain)

    def _settings(self, value: Any, handler: Callable[[Any], Any]) -> Any:
        kind: Any = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
        if not named(kind):
            return handler(value)
        return self._built(kind, value) if isinstance(value, Mapping) else value

    def _built(self, kind: str, values: Mapping[str, Any]) -> Any:
        cls: type = imported(kind, derived(self.base))
        if not is_dataclass(cls):
            raise SettingsError(f"{kind!r} is no dataclass", mend="its fields are its settings: decorate the class")
        options = {name: value for name, value in values.items() if name != "kind"}
        known = {field.name: field for field in fields(cls) if field.name != "kind"}
        for name, value in options.items():
            errors.member(name, known, "setting", name)
            if isinstance(value, float) and not math.isfinite(value):
                raise SettingsError(f"{value} given where a finite number is due", name)
        built = parse(cls, options)
        object.__setattr__(built, "kind", kind)  # whatever the class calls itself
        return built

    def _plain(self, value: Any, handler: Callable[[Any], Any]) -> Any:
        if not named(value.kind):
            return handler(value)
        options = TypeAdapter(type(value)).dump_python(value, mode="json", exclude={"kind"})
        return options | {"kind": value.kind}

"""The one place where keys are made: digests of settings, data, weights and code, for manifests, rows and stages."""

import hashlib
import importlib.util
import json
import platform
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "__dataclass_fields__"):
        return {name: getattr(value, name) for name in value.__dataclass_fields__}
    raise TypeError(f"no canonical form for {type(value).__name__}")


def digest(*parts: Any) -> str:
    """16 hex digits that identify the parts (anything JSON can say, settings and dataclasses included)."""
    return hashlib.sha256(canonical(parts).encode()).hexdigest()[:16]


def leaves(values: Any, key: str = "") -> dict[str, Any]:
    """Nested settings as `training.batch_images` -> value."""
    if not isinstance(values, Mapping):
        return {key: values}
    return {k: v for name, inner in values.items() for k, v in leaves(inner, f"{key}.{name}".lstrip(".")).items()}


def differences(there: Any, here: Any, key: str = "") -> list[str]:
    """`training.batch_images 64, now 128` for each leaf in which two nested dicts differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        keys = [*there, *(k for k in here if k not in there)]
        return [d for k in keys for d in differences(there.get(k), here.get(k), f"{key}.{k}".lstrip("."))]
    return [] if there == here else [f"{key} {there}, now {here}"]


@cache
def versions() -> dict[str, str]:
    """What computes here: all must be the same where several machines compute one thing."""
    packages = {name: metadata.version(name) for name in ("torch", "numpy")}
    return {"Python": platform.python_version(), **packages, "fm": code_digest()}


READERS = ("beyond", "paper", "superres")  # packages that read numbers and make none: pages of comparisons


@cache
def code_digest(*plugins: str) -> str:
    """Digest of the source files of `fm`, and of those of plug-ins: the code that computed a number, without git.

    Those of `READERS` do not count.
    """
    root = Path(__file__).parent
    files = [(f.relative_to(root).as_posix(), f) for f in sorted(root.rglob("*.py")) if f.parent.name not in READERS]
    files += [(f"{name} {f.name}", f) for name in plugins for f in sources(name)]
    return digest(*[(name, hashlib.sha256(f.read_bytes()).hexdigest()) for name, f in files])


def page_digest() -> str:
    """Digest of the source files of `READERS`: the code that made a page."""
    root = Path(__file__).parent
    return digest([file.read_text() for name in READERS for file in sorted((root / name).glob("*.py"))])


def sources(name: str) -> list[Path]:
    """The files that hold a plug-in's code: its module, or all of its top-level package; imports nothing."""
    spec = importlib.util.find_spec(name.partition(":")[0].partition(".")[0])
    if spec is None:
        return []
    if spec.submodule_search_locations is None:
        return [Path(spec.origin)] if spec.origin else []
    return [file for folder in spec.submodule_search_locations for file in sorted(Path(folder).rglob("*.py"))]

"""Whether a page still stands: the digest of what it was made from and the hashes of its files, kept beside them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fm.files import read_json, sha256, write_json

RECORD = Path("report") / "inputs.json"


def stands(folder: Path, inputs: str) -> bool:
    """Whether the page in this folder was made from these inputs and none of its files has changed since."""
    if not (folder / RECORD).exists():
        return False
    record = read_json(folder / RECORD)
    hashes = record["files"].items()
    return record["inputs"] == inputs and all((folder / f).exists() and sha256(folder / f) == h for f, h in hashes)


def keep(folder: Path, inputs: str, files: Sequence[Path], **more: Any) -> None:
    """Notes the page's files and what they were made from."""
    hashes = {str(file.relative_to(folder)): sha256(file) for file in files}
    write_json(folder / RECORD, {"inputs": inputs, **more, "files": hashes})

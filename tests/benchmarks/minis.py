"""What `fm paper` and `fm superres` found, kept beside the benchmarks as Markdown with figures."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

SOURCES = {"emoji64": " --source emoji:emoji64.tar"}  # of data that do not come with the project


def found_in(out: Path) -> dict[str, Any]:
    """What a comparison found."""
    return json.loads((out / "report" / "claims.json").read_text())


def kept(out: Path, here: Path, command: str, beside: Callable[[str], str] = lambda key: "") -> list[str]:
    """Copies the tables and figures of a comparison into `here`, under the name of its folder -> the parts of its
    section: what it is, its table, its claims, each with what stands `beside` it."""
    found, name = found_in(out), out.name
    folder = here / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for file in sorted((out / "report").iterdir()):
        if file.suffix == ".csv":
            _copied(file, folder / file.name)
        elif file.suffix == ".png" or file.name == "claims.json":
            shutil.copy(file, folder)
    head, *lines = found["table"]
    given = "".join(f" --set {change}" for change in found.get("changes", ()))
    given += f" --methods {','.join(found['methods'])}" if found.get("methods") else ""
    data = found["data_set"]
    again = f"`{command} --dataset {data} --seeds {found['seeds']}{SOURCES.get(data, '')}{given}`"
    parts = [f"## {name}", found["about"], again, table(head, lines), found["note"]]
    for claim in found["claims"]:
        evidence = "\n".join(f"- {line}" for line in claim["evidence"])
        parts.append(f"### {claim['title']}: {claim['verdict']}\n\n{claim['says']} Test: {claim['test']}\n\n{evidence}")
        parts += [f"What would be needed: {claim['needs']}."] * bool(claim["needs"])
        parts += filter(None, [beside(claim["key"])])
    return parts


def table(head: list[str], lines: list[list[str]]) -> str:
    """As Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines])


def _copied(table: Path, to: Path) -> None:
    """A table without the folders in which guides lay; their weights' hashes stand beside."""
    with open(table, newline="") as file, open(to, "w", newline="") as kept_file:
        reader = csv.DictReader(file)
        writer = csv.DictWriter(kept_file, reader.fieldnames or [], lineterminator="\n")
        writer.writeheader()
        for row in reader:
            writer.writerow(row | ({"guide_run": Path(row["guide_run"]).name} if row.get("guide_run") else {}))


def write(here: Path, head: str, sections: list[list[str]]) -> None:
    """README.md of all sections."""
    (here / "README.md").write_text(
        "\n\n".join([head.rstrip(), *(part for parts in sections for part in parts)]) + "\n"
    )

"""`python -m tests.benchmarks.paper_mini OUT...` keeps what `fm paper` found, and writes README.md of it."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HEAD = """# The paper's comparison in miniature

Written by `python -m tests.benchmarks.paper_mini OUT...` from what `fm paper --scale mini` left: enough to see whether
a claim shows at this size, and no repetition of the paper's experiments.
"""
SOURCES = {"emoji64": " --source emoji:emoji64.tar"}  # of data that do not come with the project


def kept(out: Path) -> str:
    """Copies the tables and figures of a comparison beside this file -> its section."""
    found: dict[str, Any] = json.loads((out / "report" / "claims.json").read_text())
    name = found["data_set"]
    if found["scale"] != "mini":
        raise SystemExit(f"{out} is of scale {found['scale']}, not mini")
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for file in sorted((out / "report").iterdir()):
        if file.suffix in (".png", ".csv") or file.name == "claims.json":
            shutil.copy(file, folder)
    head, *lines = found["table"]
    table = [head, ["---"] * len(head), *lines]
    lined = "\n".join(f"| {' | '.join(line)} |" for line in table)
    command = f"`fm paper --dataset {name} --scale mini --seeds {found['seeds']}{SOURCES.get(name, '')}`"
    parts = [f"## {name}", found["about"], command, lined, found["note"]]
    for claim in found["claims"]:
        evidence = "\n".join(f"- {line}" for line in claim["evidence"])
        parts.append(f"### {claim['title']}: {claim['verdict']}\n\n{claim['says']} Test: {claim['test']}\n\n{evidence}")
        if (folder / f"{claim['key']}.png").exists():
            parts.append(f"![{claim['title']}]({name}/{claim['key']}.png)")
    return "\n\n".join(parts)


if __name__ == "__main__":
    sections = [kept(Path(out)) for out in sys.argv[1:]]
    (HERE / "README.md").write_text("\n\n".join([HEAD.rstrip(), *sections]) + "\n")

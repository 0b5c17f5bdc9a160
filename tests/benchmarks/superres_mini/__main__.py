"""`python -m tests.benchmarks.superres_mini OUT...` keeps what `fm superres` found, and writes README.md of it."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HEAD = """# Super-resolution in miniature

Written by `python -m tests.benchmarks.superres_mini OUT...` from what `fm superres` left, 16 to 64 px on two cores:
enough to see whether what the paper says of ImageNet 64 to 256 shows at this size, and no repetition of its experiment.
"""
SOURCES = {"emoji64": " --source emoji:emoji64.tar"}  # of data that do not come with the project
FIGURES = {
    "panels": "Small picture, bicubic, regression, SR3-style diffusion, flow matching, truth",
    "varied": "The same small pictures from several noises",
    "plane": "PSNR against distance",
    "sweep": "Distance by evaluations",
}


def kept(out: Path) -> str:
    """Copies the tables and figures of a comparison beside this file -> its section."""
    found: dict[str, Any] = json.loads((out / "report" / "claims.json").read_text())
    name = found["data_set"]
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for file in sorted((out / "report").iterdir()):
        if file.suffix in (".png", ".csv") or file.name == "claims.json":
            shutil.copy(file, folder)
    head, *lines = found["table"]
    lined = "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines])
    command = f"`fm superres --dataset {name} --seeds {found['seeds']}{SOURCES.get(name, '')}`"
    parts = [f"## {name}", found["about"], command, lined, found["note"]]
    parts += [f"{words}:\n\n![{words}]({name}/{key}.png)" for key, words in FIGURES.items()]
    for claim in found["claims"]:
        evidence = "\n".join(f"- {line}" for line in claim["evidence"])
        parts.append(f"### {claim['title']}: {claim['verdict']}\n\n{claim['says']} Test: {claim['test']}\n\n{evidence}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    sections = [kept(Path(out)) for out in sys.argv[1:]]
    (HERE / "README.md").write_text("\n\n".join([HEAD.rstrip(), *sections]) + "\n")

"""`python -m tests.benchmarks.beyond_mini OUT...` writes README.md of what `fm paper --beyond` found in each OUT."""

import sys
from pathlib import Path

from tests.benchmarks.minis import kept, write

HERE = Path(__file__).parent
HEAD = """# Beyond the paper in miniature

Written by `python -m tests.benchmarks.beyond_mini OUT...` from what `fm paper --beyond --scale mini` left.

When and on what they were measured: [the benchmarks](../README.md#beyond-the-paper). Grids and guidance in finer steps:
[chosen after the training](../choices_mini/README.md).
"""
FIGURES = {"curves": "Distance by evaluations a sample; jumps dashed", "pictures": "The same noises at 1, 2 and 4"}


def section(out: Path) -> list[str]:
    parts = kept(out, HERE, "fm paper --beyond")
    return [*parts, *(f"{words}:\n\n![{words}]({out.name}/{key}.png)" for key, words in FIGURES.items())]


if __name__ == "__main__":
    write(HERE, HEAD, [section(Path(out)) for out in sys.argv[1:]])

"""`python -m tests.benchmarks.paper_mini OUT...` keeps what `fm paper` found, and writes README.md of it."""

import sys
from pathlib import Path

from tests.benchmarks.minis import found_in, kept, write

HERE = Path(__file__).parent
HEAD = """# The paper's comparison in miniature

Written by `python -m tests.benchmarks.paper_mini OUT...` from what `fm paper --scale mini` left: enough to see whether
a claim shows at this size, and no repetition of the paper's experiments.

When and on what they were measured: [the benchmarks](../README.md#the-papers-comparison).
"""


def section(out: Path) -> list[str]:
    found = found_in(out)
    if found["scale"] != "mini":
        raise SystemExit(f"{out} is of scale {found['scale']}, not mini")
    titles = {claim["key"]: claim["title"] for claim in found["claims"]}

    def figure(key: str) -> str:
        keys = [key, *["trajectories"] * (key == "appears")]
        there = [one for one in keys if (out / "report" / f"{one}.png").exists()]
        shown = [(f"![{titles.get(one, titles[key])}]({out.name}/{one}.png)", found["captions"][one]) for one in there]
        return "\n\n".join(part for parts in shown for part in parts)

    return kept(out, HERE, "fm paper --scale mini", figure)


if __name__ == "__main__":
    write(HERE, HEAD, [section(Path(out)) for out in sys.argv[1:]])

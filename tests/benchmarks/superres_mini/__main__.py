"""`python -m tests.benchmarks.superres_mini OUT...` keeps what `fm superres` found, and writes README.md of it."""

import sys
from pathlib import Path

from tests.benchmarks.minis import kept, write

HERE = Path(__file__).parent
HEAD = """# Super-resolution in miniature

Written by `python -m tests.benchmarks.superres_mini OUT...` from what `fm superres` left, 16 to 64 px on two cores:
enough to see whether what the paper says of ImageNet 64 to 256 shows at this size, and no repetition of its experiment.
"""
FIGURES = {
    "panels": "Small picture, bicubic, regression, SR3-style diffusion, flow matching, truth",
    "varied": "The same small pictures from several noises",
    "plane": "PSNR against distance",
    "sweep": "Distance by evaluations",
}


def section(out: Path) -> list[str]:
    title, *rest = kept(out, HERE, "fm superres")
    figures = [f"{words}:\n\n![{words}]({out.name}/{key}.png)" for key, words in FIGURES.items()]
    return [title, *rest[:4], *figures, *rest[4:]]


if __name__ == "__main__":
    write(HERE, HEAD, [section(Path(out)) for out in sys.argv[1:]])

"""`make bench`: speeds as ratios in one run, against a named peer or limit; prints the rows of README.md beside it.

`python -m tests.benchmarks NAME...` runs some of them.
"""

import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from tests.benchmarks.adaptive import adaptive
from tests.benchmarks.estimating import estimating
from tests.benchmarks.jumps import jumps
from tests.benchmarks.metrics import metrics
from tests.benchmarks.networks import networks
from tests.benchmarks.noise import randomness
from tests.benchmarks.packing import memory, packing
from tests.benchmarks.readers import elastic, mixing, readers, resuming
from tests.benchmarks.sampling import likelihood, sampling
from tests.benchmarks.scaling import scaling
from tests.benchmarks.sweeping import sweeping
from tests.benchmarks.timing import Row
from tests.benchmarks.training import training


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        benches: dict[str, Callable[[], Iterator[Row]]] = {
            "readers": lambda: readers(Path(folder)),
            "resuming": resuming,
            "elastic": lambda: elastic(Path(folder)),
            "mixing": mixing,
            "training": lambda: training(Path(folder)),
            "scaling": lambda: scaling(Path(folder)),
            "estimating": lambda: estimating(Path(folder)),
            "jumps": jumps,
            "networks": networks,
            "metrics": lambda: metrics(Path(folder)),
            "sweeping": lambda: sweeping(Path(folder)),
            "packing": lambda: packing(Path(folder)),
            "memory": lambda: memory(Path(folder)),
            "randomness": randomness,
            "sampling": sampling,
            "likelihood": likelihood,
            "adaptive": adaptive,
        }
        if unknown := set(names) - set(benches):
            sys.exit(f"error: no benchmark {', '.join(sorted(unknown))}; known: {', '.join(benches)}")
        print(f"{platform.machine()}, one thread, Python {platform.python_version()}, torch {torch.__version__}\n")
        print("| ours | peer or limit | ours / peer |\n| --- | --- | --- |")
        for name in names or benches:
            for ours, peer, ratio in benches[name]():
                print(f"| {ours} | {peer} | {ratio:.3g} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

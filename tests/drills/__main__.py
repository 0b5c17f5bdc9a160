"""Deaths and bad storage in the middle of a run: `python -m tests.drills`, or only some: shards, prepare, ranks,
worker, driver, leave, evaluation, five, storage, mlflow, prefect, database, postgresql, node, elastic, head.

Each drill prepares or trains, disturbs, and compares with a run that nothing disturbed: images lost, seconds to
recover, final files or weights equal to the last bit or not. Exit code 1 if a drill fails.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.drills import nodes, preparing, ranks, ray_runs
from tests.drills.table import Result, show

NAMES = ["shards", "prepare", "ranks", *ray_runs.DRILLS, *nodes.NAMES]


def drills(names: list[str], base: Path) -> Iterator[Result]:
    yield from preparing.drills(names, base)
    if "ranks" in names:
        yield from ranks.drills(base)
    if under_ray := [name for name in names if name in ray_runs.DRILLS]:
        yield from ray_runs.drills(under_ray, base / "ray")
    if on_nodes := [name for name in names if name in nodes.NAMES]:
        yield from nodes.drills(on_nodes, base / "nodes")


def main(names: list[str]) -> int:
    if unknown := set(names) - set(NAMES):
        raise SystemExit(f"no drill {', '.join(sorted(unknown))}; known: {', '.join(NAMES)}")
    with tempfile.TemporaryDirectory(prefix="fm-drills-") as folder:
        return int(show(drills(names or NAMES, Path(folder))) > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

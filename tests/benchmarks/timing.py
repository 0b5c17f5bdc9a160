"""How the benchmarks measure: CPU seconds, the fastest of some repeats, both sides of a ratio in turns."""

import time
from collections.abc import Callable

Row = tuple[str, str, float]  # ours, peer or limit, ours over peer


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """CPU seconds of the fastest of some repeats."""
    return min(once(work) for _ in range(repeats))


def in_turns(ours: Callable[[], object], peer: Callable[[], object], repeats: int = 5) -> tuple[float, float]:
    """CPU seconds of both, each the fastest of some repeats, taken in turns so that both meet the same machine."""
    ours(), peer()
    taken = [(once(ours), once(peer)) for _ in range(repeats)]
    return min(a for a, _ in taken), min(b for _, b in taken)


def once(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start

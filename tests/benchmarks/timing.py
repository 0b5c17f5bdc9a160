"""How the benchmarks measure: CPU seconds, the fastest of some repeats, both sides of a ratio in turns."""

import resource
import time
from collections.abc import Callable, Mapping

Row = tuple[str, str, float]  # ours, peer or limit, ours over peer


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """CPU seconds of the fastest of some repeats."""
    return min(once(work) for _ in range(repeats))


def in_turns(ours: Callable[[], object], peer: Callable[[], object], repeats: int = 5) -> tuple[float, float]:
    """CPU seconds of both, each the fastest of some repeats, taken in turns so that both meet the same machine."""
    taken = all_in_turns({"ours": ours, "peer": peer}, repeats)
    return taken["ours"], taken["peer"]


def all_in_turns(works: Mapping[str, Callable[[], object]], repeats: int = 5) -> dict[str, float]:
    """CPU seconds of each, as `in_turns`; what child processes took that have ended counts too."""
    for work in works.values():
        work()
    rounds = [{name: once(work) for name, work in works.items()} for _ in range(repeats)]
    return {name: min(taken[name] for taken in rounds) for name in works}


def once(work: Callable[[], object]) -> float:
    start = _spent()
    work()
    return _spent() - start


def _spent() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime

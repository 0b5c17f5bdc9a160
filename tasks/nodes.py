"""Which machine of a Ray cluster gets the next piece of mapped work."""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

NODES_S = 2.0  # between two looks at which machines there are


class Nodes:
    """The machines of the cluster: how many items each can hold, and which of them only fail.

    One that fails at once is always free, so a scheduler that looks at load alone would give it everything.
    `machines` says what `ray.nodes` does; an item needs so many CPUs and GPUs.
    """

    def __init__(self, machines: Callable[[], list[dict[str, Any]]], cpus: float, gpus: float) -> None:
        self._machines, self._need = machines, {"CPU": cpus, "GPU": gpus}
        self._under_way: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()  # since its last success
        self._room: dict[str, int] = {}
        self._asked = -math.inf

    @property
    def room(self) -> dict[str, int]:
        """Slots of each machine that is there, asked for again when some time has passed."""
        if time.monotonic() - self._asked > NODES_S:
            need = {kind: amount for kind, amount in self._need.items() if amount}
            alive = {node["NodeID"]: node["Resources"] for node in self._machines() if node["Alive"]}
            slots = {name: min(int(has.get(kind, 0) / n) for kind, n in need.items()) for name, has in alive.items()}
            self._room = {name: count for name, count in slots.items() if count}
            self._asked = time.monotonic()
        return self._room

    @property
    def slots(self) -> int:
        return max(1, sum(self.room.values()))

    def choose(self, avoid: Sequence[str]) -> str:
        """The machine with the most room, not one to avoid or that failed three times in a row if there is another."""

        def rank(name: str) -> tuple[bool, bool, float]:
            return name in avoid, self._failures[name] >= 3, (self._under_way[name] + 1) / self.room[name]

        chosen = min(self.room, key=rank, default="")
        self._under_way[chosen] += 1
        return chosen

    def ended(self, name: str, failed: bool) -> None:
        self._under_way[name] -= 1
        self._failures[name] = self._failures[name] + 1 if failed else 0

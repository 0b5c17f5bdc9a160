"""What a drill comes to, and the table of them."""

from collections.abc import Iterable
from dataclasses import dataclass


class Skipped(Exception):
    """This machine has not what the drill needs."""


@dataclass(frozen=True)
class Result:
    """What a disturbed run came to; images lost are those trained or prepared twice, recovery ends with the first new
    one."""

    drill: str
    images_lost: int
    recovery_s: float
    final: str  # hash of the weights, or of all files of a data set
    undisturbed: str  # that of the run that nothing disturbed

    @property
    def passed(self) -> bool:
        return self.final == self.undisturbed

    def __str__(self) -> str:
        same = "equal" if self.passed else "NOT EQUAL"
        return f"{self.drill:<52}{self.images_lost:>12,}{self.recovery_s:>12.1f}  {same} ({self.final[:16]})"


def show(results: Iterable[Result]) -> int:
    """Prints the table, each row as soon as it is there -> how many failed."""
    print(f"{'drill':<52}{'images lost':>12}{'recovery s':>12}  what it ended with, sha256", flush=True)
    passed = failed = 0
    for result in results:
        print(result, flush=True)
        passed, failed = passed + result.passed, failed + (not result.passed)
    print(f"drills: {passed} passed, {failed} failed")
    return failed

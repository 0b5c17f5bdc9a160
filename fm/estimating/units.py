"""Numbers as an estimate says them: no more digits than it knows, and no exponents."""

from collections.abc import Sequence
from decimal import Decimal


def short(value: float, digits: int = 3) -> str:
    """So many digits, and no exponent: `161,000`, `24.7`, `0.014`."""
    return f"{Decimal(f'{value:.{digits}g}'):,f}"


def in_time(seconds: float) -> str:
    """`83 ms`, `12 s`, `5.2 min`; hours and days to two digits: `27 h`, `41 days`."""
    for least, size, unit, digits in ((172_800, 86_400, "days", 2), (5400, 3600, "h", 2), (100, 60, "min", 3)):
        if seconds >= least:
            return f"{short(seconds / size, digits)} {unit}"
    return f"{short(seconds)} s" if seconds >= 1 else f"{short(1000 * seconds)} ms"


def in_bytes(size: float) -> str:
    """`1.5 GiB`, in the largest unit of which there is one."""
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size >= 1024**power:
            return f"{short(size / 1024**power)} {unit}"
    return f"{size:.0f} B"


def aligned(lines: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows of a table as lines: numbers to the right, the first and last column to the left."""
    last = len(lines[0]) - 1
    widths = [max(len(line[column]) for line in lines) for column in range(last)]

    def cell(column: int, text: str) -> str:
        return text if column == last else f"{text:{'>' if column else '<'}{widths[column]}}"

    return ["  ".join(cell(column, text) for column, text in enumerate(line)).rstrip() for line in lines]

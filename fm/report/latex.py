"""The table of a comparison for a paper: LaTeX with booktabs."""

import re
from collections.abc import Iterator

from fm.comparing import Cell, Comparison, Run
from fm.report.comparison import Column, columns, lines_of

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def escaped(text: str) -> str:
    """The text as LaTeX prints it, a minus before a digit as one."""
    whole = "".join(SPECIAL.get(character, character) for character in text)
    return re.sub(r"(?<![\w-])-(?=\d)", r"$-$", whole)


def latex_table(comparison: Comparison) -> str:
    """A tabular of all runs, cell by cell; bold is a value that is better than each other's, paired, and no other."""
    shown = [column for column in columns(comparison) if column.paper]
    words = sum(not column.quantity and column.heading not in ("NFE", "floor") for column in shown)
    head = " & ".join(escaped(column.heading) for column in shown)
    layout = "l" * words + "r" * (len(shown) - words)
    lines = ["% needs \\usepackage{booktabs}", rf"\begin{{tabular}}{{{layout}}}", r"\toprule", rf"{head} \\"]
    return "\n".join([*lines, *_body(comparison, shown), r"\bottomrule", r"\end{tabular}", ""])


def _body(comparison: Comparison, shown: list[Column]) -> Iterator[str]:
    before: Cell | None = None
    for cell, run, texts in lines_of(comparison, shown):
        if cell != before:
            yield r"\midrule"
        before = cell
        cells = (_cell(comparison, cell, run, column, text) for column, text in zip(shown, texts, strict=True))
        yield " & ".join(cells) + r" \\"


def _cell(comparison: Comparison, cell: Cell, run: Run, column: Column, text: str) -> str:
    if not column.quantity or comparison.best(cell, column.quantity) != run.name:
        return escaped(text)
    value, sign, half = text.partition(" ± ")
    return rf"\textbf{{{escaped(value)}}}{escaped(sign + half)}"

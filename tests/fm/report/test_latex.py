import re

import pytest

from fm.report.latex import escaped, latex_table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("fd_x & 5 % of #1", r"fd\_x \& 5 \% of \#1"),
        ("a\\b{c}~d^e$", r"a\textbackslash{}b\{c\}\textasciitilde{}d\textasciicircum{}e\$"),
        ("-1.5 ± 0.2", r"$-$1.5 $\pm$ 0.2"),
        ("1e-3 of run-2", "1e-3 of run-2"),
    ],
)
def test_text_is_escaped(text, shown):
    assert escaped(text) == shown


def test_bold_is_what_is_distinguishably_better_and_nothing_else(comparison):
    text = latex_table(comparison)
    assert re.findall(r"\\textbf\{[^}]*\}", text) == [r"\textbf{402}"]
    assert r"ot & FM w/ OT & euler & 8 & \textbf{402} $\pm$ 6.36 & 20" in text


def test_the_table_is_a_booktabs_tabular_with_as_many_cells_in_each_line(comparison):
    lines = latex_table(comparison).splitlines()
    assert lines[0] == r"% needs \usepackage{booktabs}" and lines[-1] == r"\end{tabular}"
    layout = re.fullmatch(r"\\begin\{tabular\}\{(l+)(r+)\}", lines[1])
    assert layout and layout[1] == "lll"
    rows = [line for line in lines if line.endswith(r"\\")]
    assert {len(re.split(r"(?<!\\)&", row)) for row in rows} == {len(layout[1] + layout[2])}
    assert lines.count(r"\midrule") == 4 and r"v\_p" in lines[-3]

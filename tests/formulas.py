"""`fm/FORMULAS.md`: where each formula stands, collected from the docstrings of fm/ by `python -m tests.formulas`.

A docstring cites the paper (Lipman et al. 2023) as `equation (9)`, `equations (9) and (14)`, `Theorem 2`, `Table 1` or
`Figure 2`, and other work by authors and year, such as `Karras et al. 2022, eq. 5`.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOM = Path(__file__).parent.parent / "fm"
FILE = ROOM / "FORMULAS.md"

# What the project reproduces of the paper.
LISTED = {
    "equation (1)": "flow of a velocity: d/dt x_t = v_t(x_t)",
    "equation (5)": "flow matching loss",
    "equation (6)": "marginal path",
    "equation (8)": "marginal velocity",
    "equation (9)": "conditional flow matching loss",
    "equation (10)": "Gaussian conditional path",
    "equation (11)": "its flow x_t = sigma_t z + mu_t",
    "equation (13)": "velocity on the path",
    "equation (14)": "the loss on the path, by noise and data",
    "equation (15)": "velocity of a Gaussian path at any x",
    "equation (16)": "variance-exploding path",
    "equation (17)": "its velocity",
    "equation (18)": "variance-preserving path",
    "equation (19)": "its velocity",
    "equation (20)": "optimal-transport path",
    "equation (21)": "its velocity",
    "equation (22)": "its flow",
    "equation (23)": "its loss",
    "equation (27)": "log-likelihood by the integral of the divergence",
    "equation (28)": "state and divergence in one ODE",
    "equation (31)": "the same backward in time",
    "equation (32)": "what it starts from",
    "equation (33)": "log-likelihood from its end",
    "equation (34)": "Hutchinson's estimator of the divergence",
    "equation (36)": "log-likelihood of pixels from that of the unit range",
    "equation (37)": "bits per dimension",
    "equation (40)": "probability-flow velocity from the score",
    "equation (42)": "score matching loss with a weight",
    "equation (43)": "its target",
    "equation (44)": "noise matching loss (DDPM)",
    "equation (45)": "the same by noise and data",
    "equation (46)": "velocity to sample with from score or noise",
    "equation (47)": "likelihood over K dequantisations",
    "Theorem 1": "the marginal velocity generates the marginal path",
    "Theorem 2": "both losses have the same gradient",
    "Theorem 3": "velocity of a Gaussian path",
    "Table 1": "the five methods, NLL, FID and NFE",
    "Table 2": "super-resolution: FID, IS, PSNR and SSIM",
    "Table 3": "training recipes",
    "Table 4": "NLL by number of dequantisations",
    "Figure 2": "conditional fields, OT against diffusion",
    "Figure 3": "trajectories, OT against diffusion",
    "Figure 4": "densities on the way, samples at few evaluations",
    "Figure 5": "distance against images seen",
    "Figure 6": "samples on their way, when the picture shows",
    "Figure 7": "numerical error and distance against NFE",
    "Figure 10": "NFE along the training",
}
LAST = {"equation": 47, "Theorem": 3, "Table": 4, "Figure": 17}  # the paper has no more
# What has none, and why.
PROOF = "no code: a step of a proof or derivation; what follows from it stands at its neighbours"
PICTURES = "no code of its own: pictures, of which `fm sample`, `fm superres` and `fm demo` draw the like"
HOMELESS = {
    "equation (2)": "no code: the flow begins where it is, phi_0(x) = x; solvers are given x_0",
    "equation (3)": "no code: the push-forward of p_0, which samples of the flow follow",
    "equation (4)": "no code: the change of variables of it; equation (27) computes densities",
    "equation (7)": "no code: the marginal path ends at the data, for each conditional one does",
    "equation (12)": "no code: the push-forward by the conditional flow, which is sampled by equation (11)",
    "equation (26)": "no code: the continuity equation, from which equation (27) follows",
    **{f"equation ({n})": PROOF for n in (24, 25, 29, 30, 35, 38, 39, 41)},
    **{f"Figure {n}": PICTURES for n in (1, 8, 9, *range(11, 18))},
}

PAPERS = re.compile(r"\b([Ee]quations?|Theorems?|Tables?|Figures?) (\(?\d+\)?(?:(?:, | and )\(?\d+\)?)*)")
NAME = r"[A-ZÀ-Ž][\w-]+"
PLACE = r"(?:, (?:eq\.|table|section|algorithm) \d+(?:\.\d+)*)?"
OTHERS = re.compile(rf"{NAME}(?:(?:, | & | and ){NAME})*(?: et al\.)? (?:19|20)\d\d{PLACE}")


SENTENCE = re.compile(r"(?<=\.)(?<!al\.) (?=[A-Z`])")


class Home(NamedTuple):
    """A docstring: its file and qualified name, the line on which what it describes begins, its first sentence, and
    what it cites."""

    place: str
    line: int
    what: str
    paper: set[str]
    others: set[str]


def homes() -> list[Home]:
    """Every docstring of fm/ that cites something, in the order of the source."""
    found = []
    for file in sorted(ROOM.rglob("*.py")):
        for name, line, doc in _docstrings(ast.parse(file.read_text()), ""):
            text = " ".join(doc.split())
            others = {cited for cited in OTHERS.findall(text) if not cited.startswith("Lipman")}
            place, first = file.relative_to(ROOM).as_posix() + name, SENTENCE.split(text)[0]
            home = Home(place, line, first, set(_cited(text)), others)
            if home.paper or home.others:
                found.append(home)
    return found


def _docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, int, str]]:
    """Qualified name, line and docstring of a module, its classes and functions, and values with a string below."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (doc := ast.get_docstring(node)):
        yield name, getattr(node, "lineno", 1), doc
    body = getattr(node, "body", [])
    for child, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(child, ast.ClassDef | ast.FunctionDef):
            yield from _docstrings(child, f"{name}.{child.name}" if name else f"::{child.name}")
        if isinstance(child, ast.Assign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            yield f"{name}::{ast.unparse(child.targets[0])}", child.lineno, str(after.value.value)


def _cited(text: str) -> Iterator[str]:
    for kind, numbers in PAPERS.findall(text):
        kind = kind.removesuffix("s")
        kind = "equation" if kind == "Equation" else kind
        for number in re.findall(r"\d+", numbers):
            yield f"{kind} ({number})" if kind == "equation" else f"{kind} {number}"


def wrong() -> list[str]:
    """Formulas of the paper that have no home and no reason why, or both; and citations of what it does not have."""
    cited = {(formula, home.place) for home in homes() for formula in home.paper}
    there, every = {formula for formula, _ in cited}, all_of_the_paper()
    lost = [f"{f} has no home" for f in every if f not in there and f not in HOMELESS]
    both = [f"{f} has a home after all" for f in every if f in there and f in HOMELESS]
    return lost + both + [f"{f} does not exist: {place}" for f, place in sorted(cited) if f not in every]


def all_of_the_paper() -> list[str]:
    """Every equation, theorem, table and figure, in this order."""
    counted = ((kind, n) for kind, last in LAST.items() for n in range(1, last + 1))
    return [f"{kind} ({n})" if kind == "equation" else f"{kind} {n}" for kind, n in counted]


def text() -> str:
    """The whole file."""
    lines = [
        "# Where each formula stands",
        "",
        "Made from the docstrings of fm/ by `python -m tests.formulas`; change those, not this file.",
        "Numbers are those of Lipman et al. 2023, Flow Matching for Generative Modeling (arXiv 2210.02747).",
        "",
        "| paper | what | where |",
        "| --- | --- | --- |",
    ]
    found = homes()
    for formula in all_of_the_paper():
        what = HOMELESS.get(formula) or LISTED[formula]
        where = "<br>".join(_link(home) for home in found if formula in home.paper)
        lines.append(f"| {formula} | {what} | {where or 'none'} |")
    lines += ["", "## Other sources", "", "| source | where | what |", "| --- | --- | --- |"]
    for source in sorted({source for home in found for source in home.others}):
        for home in found:
            if source in home.others:
                lines.append(f"| {source} | {_link(home)} | {home.what.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def _link(home: Home) -> str:
    return f"[{home.place}:{home.line}]({home.place.partition('::')[0]}#L{home.line})"


if __name__ == "__main__":
    FILE.write_text(text())

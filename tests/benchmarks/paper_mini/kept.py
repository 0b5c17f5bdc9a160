"""`python -m tests.benchmarks.paper_mini.kept [ONE OTHER]`: the verdicts on the claims from the tables kept here alone.

With the titles of two methods, all that stands of them is exchanged first: what rests on them may not be shown then.
"""

import ast
import csv
import json
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from fm.paper.claim import Claim
from fm.paper.claims import claims
from fm.paper.plan import Plan, planned
from fm.paper.trained import Trained

HERE = Path(__file__).parent
SECTIONS = ("photos", "emoji64")


def told(name: str) -> dict[str, Any]:
    """What the page said."""
    return json.loads((HERE / name / "claims.json").read_text())


def recomputed(name: str, one: str = "", other: str = "") -> list[Claim]:
    """The claims of a section, all that stands of two methods exchanged if their titles are given."""
    to = {one: other, other: one}
    plan, found = _plan(name), _trained(name)
    there = {(each.method.title, each.seed): each for each in found}
    taken = [there[to.get(each.method.title, each.method.title), each.seed] for each in found]
    return claims(plan, [replace(rows, method=each.method) for rows, each in zip(taken, found, strict=True)])


def _plan(name: str) -> Plan:
    page = told(name)
    return planned(page["data_set"], page["scale"], page["seeds"], page["methods"], page["changes"])


def _trained(name: str) -> list[Trained]:
    table, reports, solving = (_by_member(HERE / name / f"{part}.csv") for part in ("table", "training", "solving"))
    found = []
    for member in _plan(name).members:
        at = member.method.title, member.seed
        end, along = (tuple(row for row in table[at] if row["kept"] == kept) for kept in ("end", "along"))
        found.append(Trained(member.method, member.seed, name, end, along, tuple(reports[at]), tuple(solving[at])))
    return found


def _by_member(file: Path) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """The lines of a table by method and training seed; an empty field is none."""
    found = defaultdict(list)
    with open(file, newline="") as lines:
        for line in csv.DictReader(lines):
            row = {key: _value(text) for key, text in line.items() if text}
            found[row["member"], row["training_seed"]].append(row)
    return found


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


if __name__ == "__main__":
    for section in SECTIONS:
        for claim in recomputed(section, *sys.argv[1:]):
            print(section, claim.title, claim.verdict, sep="\t")

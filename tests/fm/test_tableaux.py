"""Order conditions of every tableau, exactly, in fractions (Hairer, Norsett, Wanner, "Solving ODEs I", II.2)."""

from fractions import Fraction

import pytest

from fm.errors import SettingsError
from fm.tableaux import SOLVERS, Tableau

RUNGE_KUTTA = {name: tableau for name, tableau in SOLVERS.items() if isinstance(tableau, Tableau)}

Tree = tuple  # a rooted tree is the tuple of its branches

LEAF: Tree = ()
TREES: dict[int, list[Tree]] = {1: [LEAF]}


def forests(total: int, largest: int) -> list[Tree]:
    """Multisets of trees, of `total` nodes in all, each tree of at most `largest` nodes, in a fixed order."""
    if total == 0:
        return [()]
    found = set()
    for size in range(1, min(total, largest) + 1):
        for tree in TREES[size]:
            for rest in forests(total - size, size):
                found.add(tuple(sorted((tree, *rest))))
    return sorted(found)


for nodes in range(2, 6):
    TREES[nodes] = forests(nodes - 1, nodes - 1)


def nodes_of(tree: Tree) -> int:
    return 1 + sum(nodes_of(branch) for branch in tree)


def density(tree: Tree) -> int:
    product = nodes_of(tree)
    for branch in tree:
        product *= density(branch)
    return product


def stage_weights(tableau: Tableau, tree: Tree) -> list[Fraction]:
    """For each stage the product over the tree's branches of sum_j a_ij (branch's weight at j)."""
    products = [Fraction(1)] * len(tableau.b)
    for branch in tree:
        inner = stage_weights(tableau, branch)
        products = [
            p * sum((a * w for a, w in zip(row, inner, strict=False)), Fraction(0))
            for p, row in zip(products, tableau.a, strict=True)
        ]
    return products


def met(tableau: Tableau, weights: tuple[Fraction, ...], order: int) -> bool:
    return all(
        sum(b * w for b, w in zip(weights, stage_weights(tableau, tree), strict=True)) == Fraction(1, density(tree))
        for nodes in range(1, order + 1)
        for tree in TREES[nodes]
    )


def test_there_are_as_many_trees_as_there_should_be() -> None:
    assert [len(TREES[n]) for n in range(1, 6)] == [1, 1, 2, 4, 9]


@pytest.mark.parametrize("name", RUNGE_KUTTA)
def test_order_conditions_hold_exactly_and_no_further(name: str) -> None:
    tableau = RUNGE_KUTTA[name]
    assert met(tableau, tableau.b, tableau.order)
    if tableau.order < 5:
        assert not met(tableau, tableau.b, tableau.order + 1)
    assert all(sum(row, Fraction(0)) == c for row, c in zip(tableau.a, tableau.c, strict=True))


@pytest.mark.parametrize("name", [name for name, tableau in RUNGE_KUTTA.items() if tableau.error])
def test_the_embedded_method_is_of_one_order_less(name: str) -> None:
    tableau = RUNGE_KUTTA[name]
    embedded = tuple(b - e for b, e in zip(tableau.b, tableau.error, strict=True))
    assert met(tableau, embedded, tableau.order - 1)
    assert not met(tableau, embedded, tableau.order)
    assert sum(tableau.middle) == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize(
    "rows",
    [
        ((0, 1), ((), (1,)), (Fraction(1, 2), 1)),
        ((0, Fraction(1, 2)), ((), (1,)), (0, 1)),
        ((0,), ((), (1,)), (0, 1)),
        ((0,), ((0,),), (1,)),
    ],
)
def test_what_is_no_explicit_method_is_refused(rows: tuple) -> None:
    with pytest.raises(SettingsError, match="no tableau of an explicit method"):
        Tableau(1, *rows)

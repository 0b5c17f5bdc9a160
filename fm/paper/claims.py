"""The paper's claims, each with a stated test, decided from what stands of the trainings."""

from collections.abc import Sequence
from dataclasses import replace

from fm.paper import behaviour, effort, quality
from fm.paper.claim import NOT_MEASURED, Claim
from fm.paper.plan import Plan
from fm.paper.trained import Trained

CLAIMS = (
    effort.fewest,
    quality.best_distance,
    quality.best_bits,
    effort.equal_error,
    effort.few_steps,
    quality.faster,
    behaviour.stable,
    behaviour.early,
    behaviour.straight,
    behaviour.onward,
    quality.generalising,
    effort.flat,
)
OF_BITS = ("nll", "generalisation")
MORE_SEEDS = "more training seeds: the size is the paper's, and its settings are, as far as it states them"


def claims(plan: Plan, trained: Sequence[Trained]) -> list[Claim]:
    """All claims with their verdicts; FM w/ VE, of which nothing is published, decides none of them."""
    return [_on(plan, claim(trained)) for claim in CLAIMS]


def _on(plan: Plan, claim: Claim) -> Claim:
    """The claim as far as these data can decide it, and with what is needed beyond this scale."""
    if plan.dataset.no_bits and claim.key in OF_BITS:
        why = f"decides nothing: {plan.dataset.no_bits}"
        return replace(claim, verdict=NOT_MEASURED, evidence=(why, *claim.evidence), needs="the data set photos")
    published = plan.scale == "full" and plan.dataset.counts
    return replace(claim, needs=MORE_SEEDS) if claim.needs and published else claim

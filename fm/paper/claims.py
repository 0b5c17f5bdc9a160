"""The paper's claims, each with a stated test, decided from what stands of the trainings."""

from collections.abc import Sequence

from fm.paper import behaviour, effort, quality
from fm.paper.claim import Claim
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


def claims(trained: Sequence[Trained]) -> list[Claim]:
    """All claims with their verdicts; FM w/ VE, of which nothing is published, decides none of them."""
    return [claim(trained) for claim in CLAIMS]

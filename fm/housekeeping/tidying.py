"""The one door of housekeeping: what kind of folder it is, under which locks it is listed, and what is done then."""

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from fm.beyond.plan import METHODS as OF_BEYOND
from fm.data.addresses import is_address, node_cache
from fm.errors import SettingsError, UserError
from fm.files import alone
from fm.housekeeping.caches import cache_judged
from fm.housekeeping.plan import DAY_S, Judged, Plan, carried_out, plan_of
from fm.housekeeping.runs import cited, comparison_judged, judged
from fm.mirror import INDEX
from fm.paper.methods import METHODS as OF_PAPER
from fm.paper.plan import members_in
from fm.runs import held
from fm.superres.plan import METHODS as OF_SUPERRES

CACHE = "cache"  # the word for the folder that FM_CACHE names
COMPARED = {*OF_PAPER, *OF_SUPERRES, *OF_BEYOND}  # keys of the methods whose trainings lie in one folder


@dataclass(frozen=True)
class Tidied:
    """kind: RUN, comparison or cache. deleted: whether the plan is of what was deleted, or of what would be."""

    kind: str
    plan: Plan
    deleted: bool


def tidied(
    place: str,
    keep: int | None = None,
    older_than_days: float | None = None,
    delete: bool = False,
    now: float | None = None,
) -> Tidied:
    """Lists a RUN, a comparison's folder or this machine's cache, and deletes what goes if it is told to.

    `now` is the Unix time in seconds that ages count to, if not that of the clock.

    Raises: UserError for any other folder, or one where somebody is at work; SettingsError for `keep` with a cache.
    """
    if is_address(place):
        mend = "the training itself removes there what its recipe does not keep; this machine's copy: `fm gc cache`"
        raise UserError("is an address, and housekeeping is of folders", place, mend)
    root = (node_cache() if place == CACHE else Path(place)).resolve()
    idle_s, now = None if older_than_days is None else older_than_days * DAY_S, now or time.time()
    with ExitStack() as stack:
        found: list[Judged]
        if root == node_cache().resolve():
            if keep is not None:
                raise SettingsError("is of checkpoints, and a cache has none of its own", "--keep", "leave it out")
            if root.is_dir():
                stack.enter_context(alone(root))  # two that delete here at once would meet
            kind, found = "cache", cache_judged(root, idle_s or 0.0, now)
        elif (root / INDEX).exists():
            raise UserError("is this machine's copy of a RUN at an address", place, "`fm gc cache` looks after it")
        elif (root / "recipe.json").is_file():
            stack.enter_context(held(root))
            kind, found = "RUN", judged(root, keep, idle_s, now, cited([root]))
        elif root.is_dir() and (members := members_in(root, COMPARED)):
            for folder in (root, *members):
                stack.enter_context(held(folder))
            kind, found = "comparison", comparison_judged(root, members, keep, idle_s, now)
        else:
            what = (
                "is neither a RUN, nor a comparison of `fm paper` or `fm superres`, nor the cache"
                if root.is_dir()
                else "no such folder"
            )
            raise UserError(what, place, f"name a RUN, or `{CACHE}` for {node_cache()}")
        plan = plan_of(root, found)
        return Tidied(kind, carried_out(plan) if delete else plan, delete)

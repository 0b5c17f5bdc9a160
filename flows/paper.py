"""The paper's comparison: every method trained and measured alike -> its table, its claims, its figures; or what came
after it, in one table."""

from typing import Annotated, Literal

from prefect import flow
from pydantic import Field

from fm.beyond.plan import planned as planned_beyond
from fm.paper.estimating import check_room
from fm.paper.plan import planned
from tasks import cluster, failing, watching
from tasks.beyond import guided
from tasks.beyond import shown as shown_beyond
from tasks.evaluate import ready
from tasks.paper import all_shown, measured, pictures, shown, together
from tasks.place import Pictures, Place


@flow(name="paper", flow_run_name="paper {dataset} {scale}, {seeds} seeds: {out}")
@failing.in_sentences
def paper(
    dataset: Literal["cifar10", "imagenet32", "imagenet64", "imagenet128", "emoji64", "photos"],
    out: str,
    source: Pictures = "",
    scale: Literal["mini", "full"] = "mini",
    seeds: Annotated[int, Field(ge=1)] = 2,
    methods: tuple[str, ...] = (),
    changes: tuple[str, ...] = (),
    allow_different_data: bool = False,
    beyond: bool = False,
    place: Place = Place(),  # noqa: B008
) -> str:
    """Trains and measures every method of the paper's Table 1 alike, and says which of its claims show.

    Args:
        dataset: On which of the data sets.
        out: Folder of the comparison, new or to be continued; each training is a RUN in it.
        source: Pictures, or DATA that was prepared. Empty: what comes with the data set, if anything.
        scale: mini, minutes a training on two cores; full, the data set's own preset, the paper's where it has one.
        seeds: Trainings of each method, from 1.
        methods: Keys of methods, such as fm-ot; empty for all.
        changes: Settings changed in every recipe, as key=value.
        allow_different_data: Take other data than the published ones, and mark the table so.
        beyond: What came after the paper beside FM w/ OT, in one table, instead.
        place: Where it runs. Changes no number beyond rounding.
    """
    plan = (planned_beyond if beyond else planned)(dataset, scale, seeds, methods, changes)
    for member in plan.members:
        member.recipe.check(place.workers, place.fewest)
    ready(plan.recipe.evaluation.features, place)
    with together(out, plan) as parent, cluster.session(place, parent.joined, watching.flow_run_url()):
        check_room(plan, parent.run, 0 if place.address else place.workers)
        given = pictures(source, plan, parent.run, allow_different_data)
        found = measured(plan, given, parent.run, parent)
        if beyond:
            found = guided(found, parent.run, parent)
        page = (shown_beyond if beyond else shown)(plan, given, parent.run, found, parent)
        all_shown(out, found)
        return str(page)

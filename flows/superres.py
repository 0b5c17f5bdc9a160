"""The paper's super-resolution: each method trained and measured on the same pairs -> its panels, table and claims."""

from typing import Annotated, Literal

from prefect import flow
from pydantic import Field

from fm.paper.estimating import check_room
from fm.superres.plan import planned
from tasks import cluster, failing, watching
from tasks.evaluate import ready
from tasks.paper import all_shown, measured, pictures, together
from tasks.place import Pictures, Place
from tasks.superres import shown


@flow(name="superres", flow_run_name="superres {dataset}, {seeds} seeds: {out}")
@failing.in_sentences
def superres(
    dataset: Literal["photos", "emoji64", "imagenet"],
    out: str,
    source: Pictures = "",
    seeds: Annotated[int, Field(ge=1)] = 1,
    methods: tuple[str, ...] = (),
    changes: tuple[str, ...] = (),
    allow_different_data: bool = False,
    place: Place = Place(),  # noqa: B008
) -> str:
    """Trains and measures super-resolution by flow matching, by an SR3-style diffusion and by regression, alike.

    Args:
        dataset: photos and emoji64: 16 to 64 px in minutes on two cores; imagenet: 64 to 256 px.
        out: Folder of the comparison, new or to be continued; each training is a RUN in it.
        source: Pictures, or DATA that was prepared with small ones. Empty: what comes with the data set, if anything.
        seeds: Trainings of each method, from 1.
        methods: Keys of methods: regression, sr3, fm-ot; empty for all.
        changes: Settings changed in every recipe, as key=value.
        allow_different_data: Take other data than the published ones, and mark the table so.
        place: Where it runs. Changes no number beyond rounding.
    """
    plan = planned(dataset, seeds, methods, changes)
    for member in plan.members:
        member.recipe.check(place.workers, place.fewest)
    ready(plan.recipe.evaluation.features, place)
    with together(out, plan) as parent, cluster.session(place, parent.joined, watching.flow_run_url()):
        check_room(plan, parent.run, 0 if place.address else place.workers)
        given = pictures(source, plan, parent.run, allow_different_data)
        found = measured(plan, given, parent.run, parent, "superres")
        page = shown(plan, given, parent.run, found, parent)
        all_shown(out, found)
        return str(page)

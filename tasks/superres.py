"""The comparison of super-resolution: its pictures from one noise and several, the bicubic baseline, and the page."""

import shlex
from pathlib import Path

import torch
from prefect import task
from prefect.cache_policies import NO_CACHE

from fm.cells import cell_of
from fm.columns import distance_columns, fidelity_columns
from fm.data import ShardedImages
from fm.enlarging import bicubic
from fm.lineage import code_digest
from fm.metrics import FEATURES
from fm.paper.methods import OT
from fm.paper.plan import Plan
from fm.paper.trained import Trained
from fm.reference import HELDOUT, TRAINING, kept_in, measure_reference, pairs
from fm.results import Row
from fm.superres.page import write_page
from fm.superres.plan import BICUBIC, METHODS
from fm.superres.reading import Answers, final
from tasks import cluster, measuring, watching
from tasks.evaluate import mapped
from tasks.measuring import Answering, Real
from tasks.paper import Pictures, options, page_of
from tasks.tracking import Tracking

SHOWN, SEEDS = 16, 4  # pictures, and noises of each
PART = 256  # pictures enlarged at a time


@task(name="report", cache_policy=NO_CACHE)
def shown(plan: Plan, given: Pictures, out: Path, found: list[Trained], parent: Tracking) -> Path:
    """OUT/report.html: the panels, the table and the claims."""

    def write(links: dict[str, str], commands: list[str]) -> list[Path]:
        watching.say("report: the bicubic baseline, and pictures of every method")
        made = _bicubic(plan, given, found), _answers(found, given.data)
        return write_page(out, plan, found, *made, links, [*commands, *_use(found)], given.marked)

    return page_of(plan, given, out, found, parent, write, ["superres", *options(plan, given, METHODS)])


def _bicubic(plan: Plan, given: Pictures, found: list[Trained]) -> Row:
    """The row of what needs no network, on the images that the methods were measured on; empty without those."""
    row = next((row for one in found if (row := final(one))), None)
    if row is None:
        return {"method": BICUBIC, "solver": "", "tolerance": None}
    run, settings, cell, gpus = found[0].where, plan.recipe.evaluation, cell_of(row), cluster.gpus_each()
    device = "cuda" if gpus else "cpu"
    count = cell.samples
    places = [range(start, min(start + PART, count)) for start in range(0, count, PART)]
    items = [Real(run, settings.features, device, HELDOUT, place) for place in places]
    parts = [outcome.needed() for outcome in mapped(measuring.enlarged, items, gpus)]
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    features = FEATURES[settings.features].known(device)
    sets = ShardedImages(given.data, TRAINING), ShardedImages(given.data, HELDOUT)
    few = settings.model_copy(update={"nll_images": 0, "nll_training_images": 0})
    reference = measure_reference(*sets, features, few, kept_in())
    described = whole.pop("features")
    return {
        "method": BICUBIC,
        "solver": "",
        "tolerance": None,
        "samples": count,
        **distance_columns(settings.distances, settings.features, described, *reference.sets(cell)),
        **fidelity_columns(whole),
        "data": given.manifest.digest,
        "features": settings.features,
        "features_weights": features.weights,
        "code": code_digest(),
    }


def _answers(found: list[Trained], data: str | Path) -> Answers | None:
    """What the first seed of each method answers to the first small pictures, flow matching from several noises."""
    firsts = {one.method.name: (one, row) for one in found if one.seed == 0 and (row := final(one))}
    if not firsts:
        return None
    given = pairs(ShardedImages(data, HELDOUT), 0, SHOWN)
    gpus = cluster.gpus_each()
    asked = [(name, 0) for name in firsts] + [(OT, seed) for seed in range(1, SEEDS) if OT in firsts]
    items = [_answering(*firsts[name], seed, "cuda" if gpus else "cpu") for name, seed in asked]
    drawn = dict(zip(asked, (one.needed() for one in mapped(measuring.answered, items, gpus)), strict=True))
    by_method = {BICUBIC: bicubic(given.low, given.images.shape[-1])} | {name: drawn[name, 0] for name in firsts}
    varied = [images for (name, _), images in drawn.items() if name == OT]
    return Answers(given.low, given.images, by_method, torch.stack(varied) if varied else None)


def _answering(one: Trained, row: Row, seed: int, device: str) -> Answering:
    return Answering(one.where, row["weights"], device, cell_of(row), seed, SHOWN)


def _use(found: list[Trained]) -> list[str]:
    """What enlarges a picture by the network that was trained."""
    made = [one.where for one in found if one.rows and one.method.name == OT][:1]
    return [shlex.join(["fm", "sample", where, "--low", "SMALL_PICTURE", "--n", "4"]) for where in made]

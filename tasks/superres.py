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
from fm.lineage import code_digest, digest
from fm.metrics import FEATURES
from fm.paper.methods import OT
from fm.paper.plan import Plan
from fm.paper.trained import Trained
from fm.reference import HELDOUT, TRAINING, kept_in, measure_reference, pairs
from fm.report import kept
from fm.results import Row, row_file
from fm.superres.page import write_page
from fm.superres.plan import BICUBIC, METHODS
from fm.superres.reading import Answers, final
from tasks import cluster, failing, measuring, watching
from tasks.evaluate import mapped
from tasks.measuring import Answering, Real
from tasks.paper import Pictures, page_code
from tasks.tracking import Tracking

SHOWN, SEEDS = 16, 4  # pictures, and noises of each
PART = 256  # pictures enlarged at a time


@task(name="report", cache_policy=NO_CACHE)
def shown(plan: Plan, given: Pictures, out: Path, found: list[Trained], parent: Tracking) -> Path:
    """OUT/report.html: the panels, the table and the claims, from all members' rows."""
    import fm.superres

    page = out / "report.html"
    keys = [(one.method.key, one.seed, one.failed, [row["key"] for row in one.rows]) for one in found]
    code = page_code(fm.superres)
    inputs = digest(keys, [one.trained_by for one in found], given.marked, plan.recipe, plan.seeds, code_digest(), code)
    with parent.stage("report"):
        if kept.stands(out, inputs):
            watching.say(f"report: unchanged (same rows; {page} verified by hash)")
        else:
            watching.say("report: the bicubic baseline, and pictures of every method")
            links = {"MLflow": parent.url, "Prefect flow run": watching.flow_run_url()}
            made = _bicubic(plan, given, found), _answers(found, given.data)
            files = write_page(out, plan, found, *made, links, _commands(plan, given, out, found), given.marked)
            kept.keep(out, inputs, files)
            watching.say(f"report: {page} and {len(files) - 1} files beside it")
        parent.figures(page, *sorted((out / "report").glob("*.png")), out / "report" / "table.csv")
    return page


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


def _commands(plan: Plan, given: Pictures, out: Path, found: list[Trained]) -> list[str]:
    """What repeats the comparison, one of its rows, and what uses it."""
    asked = {"dataset": plan.dataset.key, "seeds": plan.seeds, "source": str(given.data), "changes": plan.changes}
    asked |= {"methods": [m.key for m in plan.methods] if len(plan.methods) < len(METHODS) else []}
    asked |= {"allow_different_data": bool(given.marked)}
    rows = [row_file(Path(one.where), row["key"]) for one in found for row in one.rows]
    again = [shlex.join(["fm", "evaluate", "--rerun", str(row)]) for row in rows[:1]]
    made = [one.where for one in found if one.rows and one.method.name == OT][:1]
    use = [shlex.join(["fm", "sample", where, "--low", "SMALL_PICTURE", "--n", "4"]) for where in made]
    return [shlex.join(["fm", "superres", str(out), *failing.compared(asked)]), *again, *use]

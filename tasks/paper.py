"""The paper's comparison: its pictures, one member after another, and what they show together."""

import shlex
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from torch import Tensor

from fm.cells import along, cell_of, in_grid
from fm.checkpoints import Saved, newest
from fm.data import Manifest, load_manifest
from fm.data.addresses import is_address
from fm.errors import Diverged, NumericalError, SettingsError, Unfinished, several
from fm.lineage import code_digest, digest, leaves, page_digest
from fm.paper.methods import METHODS
from fm.paper.page import write_page
from fm.paper.plan import Member, Plan, check_data
from fm.paper.trained import Trained
from fm.pixels import to_pixels
from fm.recipe import Recipe, load, opened
from fm.records import read
from fm.reflow import drawing_weights, student
from fm.report import kept
from fm.results import Row, row_file
from fm.runs import held
from tasks import failing, tracking, watching
from tasks.evaluate import evaluate
from tasks.prepare import prepare
from tasks.reflow import draw
from tasks.standing import along_training, folder_for, judgeable
from tasks.tracking import Tracking
from tasks.train import train

TIMES = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)  # of the pictures on their way
SHOWN = 4  # of each method


@dataclass(frozen=True)
class Pictures:
    """The prepared data of a comparison; `marked` says in what they are not the published ones."""

    data: Path
    manifest: Manifest
    marked: str = ""


@contextmanager
def together(out: str, plan: Plan) -> Iterator[Tracking]:
    """OUT for one comparison at a time, with its run in MLflow, under which those of its members stand.

    Raises: SettingsError for an address; UserError if another process is at work in OUT.
    """
    if is_address(out):
        raise SettingsError("is an address, and a comparison lies in a folder", out, "give a folder that all nodes see")
    facts = {"data set": plan.dataset.key, "scale": plan.scale, "seeds": plan.seeds, "methods": len(plan.methods)}
    shared = leaves(plan.recipe.model_dump(mode="json", exclude={"path", "objective", "name"}))
    with held(out) as folder, tracking.tracked(folder, plan.recipe, told=facts | shared) as copy:
        yield copy


def pictures(source: str, plan: Plan, out: Path, allowed: bool) -> Pictures:
    """The comparison's data: SOURCE if it is prepared already, else what is prepared from it, in OUT/data.

    Raises: DataError if they are not the published ones and that is not allowed, or cannot be judged by.
    """
    source = source or plan.dataset.source
    if not source:
        mend = f"name its pictures with --source: {plan.dataset.hint}, or a folder that `fm prepare` filled"
        raise SettingsError(f"{plan.dataset.title} does not come with this project", "--source", mend)
    if (Path(source) / "manifest.json").exists():
        data = Path(source)
        manifest = load_manifest(data)
    else:
        data = folder_for(source, plan.recipe.data, out)
        manifest = prepare(source, data, plan.recipe.data)
    return Pictures(data, judgeable(manifest, plan.recipe), check_data(plan, manifest, source, allowed))


def measured(plan: Plan, given: Pictures, out: Path, parent: Tracking, what: str = "paper") -> list[Trained]:
    """All members, trained and evaluated; what stands is not done again, and one that diverges leaves the others be."""
    progress, found = watching.Progress(what, f"{what} {plan.name}", every_s=0), {}
    for done, member in enumerate(plan.members):
        line = f"{done} of {len(plan.members)} trainings done; now {member.method.title}, seed {member.seed}"
        progress.update(done / len(plan.members), line, now=True)
        found[member.folder] = _measured(member, given, out, parent)
    progress.update(1.0, several(len(plan.members), "training"), now=True)
    return [*found.values()]


def _measured(member: Member, given: Pictures, out: Path, parent: Tracking) -> Trained:
    run, by = out / member.folder, member.method.drawn_by
    recipe = member.recipe.model_copy(update={"data": given.manifest.settings})
    teacher = out / f"{by}-seed{member.seed}"
    drawing = newest(teacher) if by else None
    source = None
    if drawing and recipe.training.finished(drawing.images_seen, drawing.seconds):
        images, weights = given.manifest.splits["train"].images, drawing_weights(run, drawing.weights)
        recipe, source = student(recipe, str(teacher), weights, images, changes={"name": recipe.name})
    elif by:
        return Trained(
            member.method,
            member.seed,
            str(run),
            failed=f"{teacher.name} is not trained to its end, so that nothing is drawn",
        )
    with opened(run, recipe) as folder, parent.member(folder, recipe) as copy:
        try:
            pairs = draw(source, folder, recipe, given.manifest.settings, copy) if source else None
            saved = train(given.data, given.manifest, folder, recipe, copy, pairs)
            rows = evaluate(folder, recipe, saved, copy)
        except (Diverged, Unfinished) as error:
            watching.say(f"{member.folder} failed: {error}")
            left = Trained(member.method, member.seed, str(run), failed=str(error))
            return replace(left, records=_records(folder), trained_by=_trained_by(folder))
        return trained(member, run, recipe, saved, rows)


def trained(member: Member, run: Path, recipe: Recipe, saved: Saved, rows: list[Row]) -> Trained:
    """What stands in RUN, sorted by what it is of. Failed rows stay at their place: what they were to measure is
    missing then, and no coarser row stands in for it."""
    own = [row for row in rows if row["method"] != "untrained"]
    final = [row for row in own if not along_training(row, saved)]
    whole = [row for row in final if "failed" not in row]
    point, on_the_way = along(recipe.evaluation), [r for r in own if along_training(r, saved) and "failed" not in r]
    if point:
        on_the_way += [row for row in whole if in_grid(point, [cell_of(row)])][:1]
    failed = [row for row in rows if "failed" in row]
    return Trained(
        member.method,
        member.seed,
        str(run),
        tuple(final),
        tuple(sorted(on_the_way, key=lambda row: row["images_seen"])),
        _records(run),
        tuple(read(run / "records", after=-1, name="solving")),
        _trained_by(run),
        f"{several(len(failed), 'cell')} failed: {failed[0]['failed']}" if failed else "",
    )


def _records(run: Path) -> tuple[dict[str, object], ...]:
    return tuple(read(run / "records", after=-1))


def _trained_by(run: Path) -> tuple[str, ...]:
    starts = read(run / "records", after=-1, name="starts")
    return tuple(sorted({start["code"] for start in starts if "code" in start}))


@task(name="report", cache_policy=NO_CACHE)
def shown(plan: Plan, given: Pictures, out: Path, found: list[Trained], parent: Tracking) -> Path:
    """OUT/report.html: the table, the claims and their figures."""

    def write(links: dict[str, str], commands: list[str]) -> list[Path]:
        return write_page(out, plan, found, _strips(found), links, commands, given.marked, TIMES)

    return page_of(plan, given, out, found, parent, write, ["paper", *options(plan, given, METHODS, scale=plan.scale)])


def page_of(
    plan: Plan,
    given: Pictures,
    out: Path,
    found: list[Trained],
    parent: Tracking,
    write: Callable[[dict[str, str], list[str]], list[Path]],
    asked: list[str],
) -> Path:
    """OUT/report.html from all members' rows and records, unless it stands as it would be made.

    `write(links, commands)` makes it and gives its files; `asked`: the command of the comparison with its options.
    """
    page = out / "report.html"
    keys = [(one.method.key, one.seed, one.failed, [row["key"] for row in one.rows + one.along]) for one in found]
    told = [(one.records, one.solving, one.trained_by) for one in found]
    inputs = digest(keys, told, given.marked, plan.recipe, plan.seeds, code_digest(), page_digest())
    with parent.stage("report"):
        if kept.stands(out, inputs):
            watching.say(f"report: unchanged (same rows and records; {page} verified by hash)")
        else:
            links = {"MLflow": parent.url, "Prefect flow run": watching.flow_run_url()}
            files = write(links, _commands(out, found, asked))
            kept.keep(out, inputs, files)
            watching.say(f"report: {page} and {len(files) - 1} files beside it")
        parent.figures(page, *sorted((out / "report").glob("*.png")), *sorted((out / "report").glob("*.csv")))
    return page


def _strips(found: list[Trained]) -> dict[str, Tensor]:
    """A few samples of each method on their way, uint8 (times, n, channels, height, width), all from the same noise."""
    strips = {}
    for one in found:
        if one.seed == 0 and one.rows:
            try:
                states = load(one.where).trajectory(SHOWN, TIMES, method="dopri5", rtol=1e-4, atol=1e-4)
            except NumericalError as error:
                watching.say(f"report: no trajectories of {one.method.title}: {error}")
                continue
            strips[one.method.title] = to_pixels(states.flatten(0, 1)).view(states.shape)
    return strips


def options(plan: Plan, given: Pictures, every: Collection[str], **more: Any) -> list[str]:
    """The options of the command that repeats a comparison; `every`: the methods that it takes by itself."""
    asked = {"dataset": plan.dataset.key, "seeds": plan.seeds, "source": str(given.data), "changes": plan.changes}
    asked |= {"methods": plan.some(every)}
    return failing.compared(asked | {"allow_different_data": bool(given.marked)} | more)


def _commands(out: Path, found: list[Trained], asked: list[str]) -> list[str]:
    """What repeats the comparison, and one of its rows."""
    rows = [row_file(Path(one.where), row["key"]) for one in found for row in one.rows if "failed" not in row]
    again = [shlex.join(["fm", "evaluate", "--rerun", str(row)]) for row in rows[:1]]
    return [shlex.join(["fm", asked[0], str(out), *asked[1:]]), *again]


def all_shown(out: str, found: list[Trained]) -> None:
    """Raises: Unfinished that says which trainings or cells failed."""
    failed = [one for one in found if one.failed]
    if failed:
        which = ", ".join(f"{one.method.title} seed {one.seed} ({one.failed})" for one in failed[:3])
        raise Unfinished(f"{len(failed)} of {len(found)} rows of the table lack something: {which}", out)

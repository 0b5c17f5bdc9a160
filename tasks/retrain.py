"""Challenger and champion: which training comes next, both measured alike, the decision, what the registry keeps."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from fm.checkpoints import Saved, newest
from fm.comparing import run_of
from fm.data import Manifest, load_manifest
from fm.data.addresses import is_address, node_cache
from fm.errors import SettingsError
from fm.facts import facts_of, on_data
from fm.judging import FIRST, Decision, in_words, judge
from fm.lineage import digest
from fm.publishing import begin_with, note_cited, publish, published_weights
from fm.recipe import Recipe, opened
from fm.results import Row
from fm.runs import of
from fm.side_by_side import side_by_side
from tasks import registry, tracking, watching
from tasks.evaluate import all_measured, evaluate
from tasks.registry import Version

Begin = Literal["champion", "scratch"]
PICTURES = 64  # samples of each on the page that sets both side by side


def challenger(
    champion: Version | None, manifest: Manifest, begin: Begin, preset: str, changes: Sequence[str], runs: str
) -> tuple[Recipe, Path | None]:
    """The recipe of the next training, and the champion's folder if there is one.

    It is the champion's, of new seed, from its weights or from scratch; without a champion the preset's, from scratch.
    Raises: SettingsError if the champion's weights do not fit a changed network.
    """
    data = {"data": manifest.settings.model_dump(mode="json")}
    if champion is None:
        return Recipe.load(preset, changes).model_copy(update={"data": manifest.settings}), None
    beside = node_cache() / "champions" if is_address(runs) else Path(runs)
    folder = _fetched(champion, beside)
    theirs = Recipe.load(folder)
    values = theirs.model_dump(mode="json") | data
    weights = champion.weights if begin == "champion" else None
    values["training"] |= {"initial_weights": weights, "drawn_by": None, "seed": (theirs.training.seed + 1) % 2**31}
    recipe = Recipe.changed(values, changes, str(folder))
    if weights and recipe.model != theirs.model:
        raise SettingsError("is another network than the champion's", "model", "begin from scratch, or leave it")
    return recipe, folder


def _fetched(champion: Version, beside: Path) -> Path:
    return registry.fetch(champion, beside.resolve() / f"{champion.model}-v{champion.number}")


def run_for(recipe: Recipe, manifest: Manifest, model: str, beside: str) -> str:
    """The RUN of this challenger: the same again for the same champion, data and recipe, so that it is continued."""
    return f"{beside.rstrip('/')}/{model}-{digest(recipe.training_digest(), manifest.digest)[:8]}"


def from_champion(folder: Path | None, recipe: Recipe, run: Path) -> None:
    """Lays the champion's weights where the training looks for them, if it begins with them."""
    if folder and recipe.training.initial_weights:
        begin_with(folder, published_weights(folder), run)


def judged(
    model: str, champion: Version | None, run: Path, recipe: Recipe, saved: Saved, copy: tracking.Tracking
) -> Decision:
    """Measures RUN's network and the champion on the same data and noise, decides, and registers the former."""
    rows = evaluate(run, recipe, saved, copy)
    all_measured(of(run), rows)
    with copy.stage("judge"):
        decision = _decided(champion, run, recipe, rows, copy) if champion else FIRST
        own = [row for row in rows if row["weights"] == saved.weights]
        folder = run / "published" / digest(saved.weights, [row["key"] for row in own])
        publish(run, saved.weights, folder, model, own)
        version = registry.register(model, folder, decision, champion, copy)
        note_cited(run, saved.weights, model, version.number)
        if decision.accepted and (kept_out := registry.crown(version, champion)):
            decision = replace(decision, accepted=False, why=kept_out)
    watching.say(f"judge: version {version.number} of {model} is {decision.verdict}: {decision.why}")
    _show(model, version, champion, decision, saved)
    return decision


def _decided(champion: Version, run: Path, recipe: Recipe, rows: list[Row], copy: tracking.Tracking) -> Decision:
    """Both on the same data; a page sets them side by side."""
    folder = _fetched(champion, run.parent)
    theirs = Recipe.load(folder).model_copy(update={"evaluation": recipe.evaluation})
    data = facts_of(run)["data"]
    with opened(folder, theirs, note=False) as there, copy.member(there, theirs) as its:
        on_data(there, data, load_manifest(data))
        saved = newest(there)
        assert saved is not None  # noqa: S101  a published network has one
        watching.say(f"judge: version {champion.number} of {champion.model} on the same data and noise")
        measured = evaluate(there, theirs, saved, its)
        decision = judge(run_of("champion", str(there), measured), run_of("challenger", str(run), rows), _first(recipe))
        made = side_by_side([str(there), str(run)], run / "comparison", PICTURES, watching.say)
        copy.figures(made.page)
    return decision


def _first(recipe: Recipe) -> str:
    """The column of the recipe's first distance."""
    return f"{recipe.evaluation.distances[0]}_{recipe.evaluation.features}"


def _show(model: str, version: Version, champion: Version | None, decision: Decision, saved: Saved) -> None:
    """The decision as an artifact, a link to the version, and an event that automations may wait for."""
    lines = [["metric", "champion", "challenger", "difference", "better"]]
    for pair in decision.pairs():
        before, after = pair.values or (None, None)
        change = "" if pair.difference is None else f"{pair.difference:+.4g} ± {pair.half:.2g}"
        told = [f"{value:.4g}" if value is not None else "" for value in (before, after)]
        lines.append([f"{pair.quantity} ({pair.cell})", *told, change, pair.better or pair.verdict])
    against = f"version {champion.number}" if champion else "no champion"
    watching.table("decision", lines, f"{model} version {version.number} against {against}: {decision.verdict}")
    watching.link("registry", registry.page(model, version.number), f"{model} version {version.number}")
    facts = {"model": model, "version": version.number, "why": decision.why, "weights": saved.weights}
    watching.event(f"fm.model.{decision.verdict}", f"fm.model.{model}", facts | {"primary": in_words(decision.primary)})


def result(model: str, decision: Decision) -> dict[str, Any]:
    """What a flow or command answers."""
    now = registry.champion(model)
    standing = {"champion": now.number, "weights": now.weights} if now else {}
    return {"model": model, "decision": decision.verdict, "why": decision.why, **standing}

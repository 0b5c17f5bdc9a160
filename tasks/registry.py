"""MLflow's registry of published networks: versions with the decision on each, and which one is the champion.

The alias `champion` names the version in use. Each version says in its tags which weights it is, whether it was
accepted or refused and by what numbers, and which version it replaced, so that a rollback needs no other record.
"""

import json
import tempfile
import time
from contextlib import AbstractContextManager
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, NamedTuple

from fm.errors import UserError
from fm.files import check_name
from fm.judging import Decision, numbers
from fm.publishing import published_weights
from tasks import tracking
from tasks.slots import one_at_a_time

ALIAS = "champion"
NEEDED = ("torch", "torchdiffeq", "numpy", "pillow", "safetensors", "pydantic")  # what `fm` draws with


class Version(NamedTuple):
    """One version of a registered model."""

    model: str
    number: str
    source: str  # where its folder lies among MLflow's artifacts
    tags: dict[str, str]

    @property
    def weights(self) -> str:
        """SHA-256 of its weights."""
        return self.tags.get("weights", "")


def champion(model: str) -> Version | None:
    """The version that the alias `champion` names; None if the model has none.

    Raises: UserError if MLflow is away.
    """
    check_name(model, "a model")
    with tracking.answering() as client:
        found = [one for one in client.search_registered_models(f"name = '{model}'") if one.name == model]
        number = found[0].aliases.get(ALIAS) if found else None
        return _version(client.get_model_version(model, number)) if number else None


def fetch(version: Version, into: Path) -> Path:
    """The published network of a version in the folder `into`, brought from MLflow unless it is there.

    Raises: UserError if MLflow is away, or what it has is not what the version says.
    """
    if not version.weights:
        mend = "give the alias to a version that `fm promote` made"
        raise UserError(f"version {version.number} does not say which weights it is", version.model, mend)
    if published_weights(into) == version.weights:
        return into
    into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into.parent, prefix=".fetched-") as part:
        with tracking.answering():
            found = tracking.fetched(f"{version.source}/data", Path(part))
        (folder,) = [path.parent for path in found.rglob("recipe.json")] or [found]
        if published_weights(folder) != version.weights:
            what = f"version {version.number} of {version.model} is not the weights {version.weights[:16]} it names"
            raise UserError(what, version.source, "`fm rollback` goes back to the version before")
        try:
            folder.rename(into)
        except OSError as error:
            why = f"cannot take {version.model} version {version.number} ({error.strerror})"
            raise UserError(why, str(into), "remove what is there") from None
    return into


def register(
    model: str, published: Path, decision: Decision, against: Version | None, copy: tracking.Tracking
) -> Version:
    """A version of this network with the decision on it; the alias stays where it is.

    What is there already, of the same weights judged against the same champion, is not made again.
    """
    weights, told = published_weights(published), numbers(decision)
    tags = {"weights": weights, "decision": decision.verdict, "against": against.number if against else ""}
    tags["numbers"] = json.dumps(told["metrics"])
    with tracking.answering() as client:
        if not client.search_registered_models(f"name = '{model}'"):
            client.create_registered_model(model)
        made = _same(client, model, tags)
    if made is None:
        with tempfile.TemporaryDirectory(prefix="fm-model-") as part:
            tracking.as_pyfunc(published, Path(part, "model"), [f"{name}=={installed(name)}" for name in NEEDED])
            run, source = copy.keep_model(Path(part, "model"), f"model-{weights[:16]}")
        with tracking.answering() as client:
            words = f"{decision.verdict}: {decision.why}"
            told = {"tags": tags, "description": words, "await_creation_for": 0}
            made = _version(client.create_model_version(model, source, run, **told))
    return made


def crown(version: Version, against: Version | None) -> str:
    """Moves the alias to a version that was judged against the champion -> why not, if it was rolled back since or
    another became champion meanwhile.

    The version notes the one that it replaces, first the note, then the alias; or what kept it out.

    Raises: UserError if Prefect or MLflow is away.
    """
    with _alone(version.model), tracking.answering() as client:
        now = champion(version.model)
        if now and now.number == version.number:
            return ""
        there, kept_out = client.get_model_version(version.model, version.number).tags, ""
        if "rolled_back" in there:
            kept_out = f"version {version.number} was rolled back; to take it all the same, give it the alias in MLflow"
        elif now and (against is None or now.number != against.number):
            again = f"`fm promote RUN --model {version.model}` judges against that one"
            kept_out = f"version {now.number} became champion meanwhile; {again}"
        if kept_out:
            client.set_model_version_tag(version.model, version.number, "kept_out", kept_out)
            return kept_out
        if "kept_out" in there:
            client.delete_model_version_tag(version.model, version.number, "kept_out")
        if against:
            client.set_model_version_tag(version.model, version.number, "replaced", against.number)
        client.set_registered_model_alias(version.model, ALIAS, version.number)
    return ""


def rollback(model: str) -> tuple[Version, Version]:
    """Gives the alias back to the version that the champion replaced -> the one before, the one now.

    Raises: UserError if there is no champion, or none before it, or Prefect or MLflow is away.
    """
    with _alone(model):
        now = champion(model)
        if now is None:
            raise UserError("has no champion", model, "`fm promote RUN --model NAME` makes the first")
        before = now.tags.get("replaced")
        if not before:
            raise UserError(f"version {now.number} replaced no other", model, "there is nothing to go back to")
        with tracking.answering() as client:
            client.set_model_version_tag(model, now.number, "rolled_back", time.strftime("%Y-%m-%dT%H:%M:%S%z"))
            client.set_registered_model_alias(model, ALIAS, before)
            return now, _version(client.get_model_version(model, before))


def _alone(model: str) -> AbstractContextManager[None]:
    """The right to move a model's alias: MLflow sets one without asking what it was, so that two who look at the same
    time would both move it."""
    return one_at_a_time(f"champion {model}")


def page(model: str, number: str) -> str:
    """Where MLflow shows a version."""
    with tracking.answering() as client:
        return f"{client.tracking_uri}/#/models/{model}/versions/{number}?{tracking.VIEW}"


def _same(client: Any, model: str, tags: dict[str, str]) -> Version | None:
    """The version of these weights that was judged against the same champion by the same numbers, as a start before
    this one left it."""
    for found in map(_version, client.search_model_versions(f"name = '{model}'")):
        if all(found.tags.get(name) == tags[name] for name in ("weights", "against", "decision", "numbers")):
            return found
    return None


def _version(found: Any) -> Version:
    return Version(found.name, str(found.version), found.source, dict(found.tags))

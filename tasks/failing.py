"""What a flow that failed leaves for whoever looks next: why, the last lines of the worker, how to go on, what is safe.

On the flow's page in Prefect as an artifact, and in RUN/failure.json, which `fm status RUN` shows.
"""

import inspect
import logging
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect.states import Failed, State

from fm.checkpoints import newest
from fm.errors import UserError
from fm.files import write_json
from fm.runs import held, here
from tasks import losses, watching
from tasks.place import Place
from tasks.standing import STAGES
from tasks.worker import logs_of

P = ParamSpec("P")
T = TypeVar("T")
LINES, TAIL_BYTES = 30, 256 * 1024


class _Sentences(logging.Filter):
    """A user's error is one sentence in the log, only our bugs keep a traceback; states Prefect shows elsewhere."""

    def filter(self, record: logging.LogRecord) -> bool:
        if str(record.msg).startswith("Finished in state"):
            return False
        if record.exc_info and isinstance(record.exc_info[1], UserError):
            record.msg, record.args, record.exc_info = str(record.exc_info[1]), (), None
        return True


_SENTENCES = _Sentences()


def in_sentences(body: Callable[P, T]) -> Callable[P, T | State[Any]]:
    """Around a flow's body: a user's error is the failed state's message, word for word, and no traceback anywhere;
    any error leaves its artifact."""
    signature = inspect.signature(body)

    @wraps(body)
    def run(*args: P.args, **kwargs: P.kwargs) -> T | State[Any]:
        for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
            logging.getLogger(name).addFilter(_SENTENCES)
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        try:
            return body(*args, **kwargs)
        except Exception as error:
            with suppress(Exception):  # whatever fails here must not hide what failed there
                leave_word(body.__name__, given.arguments, error)
            if isinstance(error, UserError):
                return Failed(message=str(error), data=error)
            raise

    return run


def leave_word(flow: str, given: Mapping[str, Any], error: Exception) -> None:
    """The artifact `failed`, and RUN/failure.json if the flow has a RUN that is one."""
    reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    run = here(given["run"]) if "run" in given else None
    log, lines = last_lines(run, error) if run else ("", [])
    begun = run is None or (run / "recipe.json").exists()
    command = command_again(flow, given) if begun else ""
    if run and begun:
        with suppress(UserError), held(given["run"]):  # another flow that is at work in RUN is not the one that failed
            write_json(run / "failure.json", {"time": time.time(), "error": reason, "log": log, "again": command})
    kept = safe(given)
    text = f"# {flow} failed\n\n{reason}\n\n"
    if lines:
        text += f"## The last lines of {log}\n\n```text\n" + "\n".join(lines) + "\n```\n\n"
    again = f"The same form again, or `{command}`" if command else "The same form again, or the same command."
    text += f"## To go on\n\n{again}\n\n## Already safe\n\n{kept}\n"
    watching.markdown("failed", text, reason)


def last_lines(run: Path, error: Exception) -> tuple[str, list[str]]:
    """The log of the rank that failed, or of the one that spoke last, and its last lines."""
    rank = losses.failed_rank(error)
    logs = sorted(logs_of(run).glob("rank-*.log"), key=lambda path: path.stat().st_mtime)
    chosen = [path for path in logs if path.name == f"rank-{rank}.log"] or logs[-1:]
    if not chosen:
        return "", []
    with open(chosen[0], "rb") as file:
        start = file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
        lines = file.read().decode("utf-8", "replace").splitlines()
        return str(chosen[0]), lines[1 if start else 0 :][-LINES:]  # the first of a piece is cut


def command_again(flow: str, given: Mapping[str, Any]) -> str:
    """The command line that goes on where the flow ended; none where it would leave out what only the form knows."""
    if given.get("evaluation"):
        return ""
    words: list[Any] = {
        "prepare_data": lambda: ["prepare", given["source"], given["data"], *_as_options(given.get("settings"))],
        "extend_data": lambda: ["prepare", given["source"], given["data"], "--add", *_accepted(given)],
        "train_run": lambda: ["train", given["data"], given["run"], "--preset", given["run"]],
        "pipeline": lambda: ["pipeline", given["source"], given["run"], "--preset", given["run"], *_start(given)],
        "evaluate_run": lambda: ["evaluate", given["run"], *([given["data"]] if given.get("data") else [])],
        "averages": lambda: ["ema", given["run"], *_lengths(given["lengths"])],
        "rerun": lambda: ["evaluate", *_rows_again(given)],
        "paper": lambda: ["paper", given["out"], *compared(given)],
        "superres": lambda: ["superres", given["out"], *compared(given)],
        "reflow": lambda: ["reflow", given["teacher"], given["run"], *_reflowed(given)],
        "retrain": lambda: ["retrain", given["data"], *retrained(given)],
        "promote": lambda: ["promote", given["run"], "--model", given["model"]],
    }[flow]()
    place = given["place"]
    if flow in ("train_run", "pipeline", "paper", "superres", "reflow", "retrain"):
        names = ("workers", "fewest_workers", "gpus")
        changed = {name: value for name in names if (value := getattr(place, name)) != getattr(Place(), name)}
        words += [word for name, value in changed.items() for word in (f"--{name.replace('_', '-')}", value)]
    return shlex.join(map(str, ["fm", *words, *(["--address", place.address] if place.address else [])]))


def _start(given: Mapping[str, Any]) -> list[str]:
    start_at = given.get("start_at", STAGES[0])
    return ["--from", start_at] if start_at != STAGES[0] else []


def _as_options(settings: Any) -> list[str]:
    """A preparation's settings as `fm prepare` takes them; the seed alone has no option."""
    if settings is None:
        return []
    values = settings.model_dump(exclude={"seed", "accept_missing"}, exclude_none=True)
    words = [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return words + _accepted({"accept_missing": settings.accept_missing})


def compared(given: Mapping[str, Any]) -> list[str]:
    """The options of a comparison."""
    words = ["--dataset", given["dataset"], *(["--scale", given["scale"]] if "scale" in given else [])]
    words += ["--seeds", str(given["seeds"])]
    if given.get("source"):
        words += ["--source", given["source"]]
    if given.get("methods"):
        words += ["--methods", ",".join(given["methods"])]
    words += [word for change in given.get("changes", ()) for word in ("--set", change)]
    words += ["--beyond"] * bool(given.get("beyond"))
    return words + ["--allow-different-data"] * bool(given.get("allow_different_data"))


def _rows_again(given: Mapping[str, Any]) -> list[str]:
    return [word for key in given["keys"] for word in ("--rerun", f"{given['run']}/evaluations/{key}.json")]


def _lengths(lengths: Sequence[float]) -> list[str]:
    return ["--lengths", ",".join(f"{length:g}" for length in lengths)] if lengths else []


def _reflowed(given: Mapping[str, Any]) -> list[str]:
    words = ["--begin", given["begin"], "--tolerance", f"{given['tolerance']:g}"]
    words += ["--images", str(given["images"])] if given["images"] else []
    return words + [word for change in given["changes"] for word in ("--set", change)]


def retrained(given: Mapping[str, Any]) -> list[str]:
    """The options of a retraining."""
    words = ["--model", given["model"], "--runs", given["runs"], "--begin", given["begin"], "--preset", given["preset"]]
    return words + [word for change in given["changes"] for word in ("--set", change)]


def _accepted(given: Mapping[str, Any]) -> list[str]:
    return ["--accept-missing"] if given.get("accept_missing") else []


def safe(given: Mapping[str, Any]) -> str:
    """What the next start keeps, one line each."""
    lines = []
    if given.get("data"):
        shards = len(list((Path(given["data"]) / "index").glob("*.json"))) if "://" not in str(given["data"]) else 0
        lines += [f"- {shards:,} whole shards in `{given['data']}`"] if shards else []
    if "run" in given:
        run = here(given["run"])
        saved = newest(run)
        lines += [f"- the checkpoint at {saved.images_seen:,} images seen, `{saved.path}`"] if saved else []
        rows = len(list((run / "evaluations").glob("*.json")))
        lines += [f"- {rows} measured rows in `{run / 'evaluations'}`"] if rows else []
    return "\n".join(lines) or "- nothing was begun"

"""What a failed flow leaves: a sentence, the last lines of the worker, the command that goes on, and what is safe."""

import json
import logging
from pathlib import Path
from typing import ClassVar

import pytest

from fm.errors import CheckpointError, DataError
from fm.files import alone
from tasks import failing, watching
from tasks.place import Place
from tasks.worker import logs_of


def record(error: Exception) -> logging.LogRecord:
    return logging.LogRecord("a", logging.ERROR, "", 0, "failed: %s", ("x",), (type(error), error, None))


def test_a_users_error_is_a_sentence_in_the_log_and_a_bug_keeps_its_traceback() -> None:
    user, bug = record(DataError("wrong", "there")), record(ZeroDivisionError())
    assert failing._SENTENCES.filter(user) and failing._SENTENCES.filter(bug)
    assert (user.getMessage(), user.exc_info) == ("there: wrong", None)
    assert bug.exc_info is not None


def test_a_flows_body_ends_in_a_state_with_the_sentence() -> None:
    @failing.in_sentences
    def body(x: int) -> int:
        """Words."""
        if x == 0:
            raise DataError("wrong", "there", "mend it")
        return x

    assert body(3) == 3
    state = body(0)
    assert state.is_failed() and state.message == "there: wrong; mend it"
    assert body.__doc__ == "Words."


class WorkersDied(Exception):
    worker_failures: ClassVar = {1: DataError("wrong", "there"), 0: RuntimeError("connection closed by peer")}


@pytest.fixture
def told(monkeypatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(watching, "markdown", lambda key, text, description: texts.append(text))
    return texts


def test_a_training_that_fails_leaves_why_where_and_how_to_go_on(tmp_path: Path, told: list[str]) -> None:
    run = tmp_path / "my run"
    logs_of(run).mkdir(parents=True)
    (run / "recipe.json").write_text("{}")
    for rank in (0, 1):
        (logs_of(run) / f"rank-{rank}.log").write_text(
            "".join(f"{'event ' * 100}line {n} of rank {rank}\n" for n in range(50))
        )
    given = {"data": "s3://bucket/data", "run": str(run), "place": Place(workers=3)}
    failing.leave_word("train_run", given, WorkersDied("two"))
    assert "event line 49 of rank 1\n" in told[0] and "event line 20 of rank 1\n" in told[0]
    assert "line 19" not in told[0] and "rank 0" not in told[0]
    again = f"fm train s3://bucket/data '{run}' --preset '{run}' --workers 3"
    assert f"`{again}`" in told[0] and "WorkersDied: two" in told[0] and "nothing was begun" in told[0]
    left = json.loads((run / "failure.json").read_text())
    assert (left["error"], left["again"]) == ("WorkersDied: two", again)


def test_who_is_refused_leaves_nothing_in_anothers_run(tmp_path: Path, told: list[str]) -> None:
    (tmp_path / "recipe.json").write_text("{}")
    error = CheckpointError("another run is at work there", str(tmp_path))
    with alone(tmp_path):
        failing.leave_word("evaluate_run", {"run": str(tmp_path), "data": "", "place": Place()}, error)
    assert len(told) == 1 and not (tmp_path / "failure.json").exists()


def test_a_preparation_says_its_own_command(tmp_path: Path, told: list[str]) -> None:
    from fm.data import Preparation

    settings = Preparation(size=64, alpha="white", accept_missing=True)
    given = {"source": "photos:", "data": str(tmp_path / "out"), "settings": settings, "place": Place(address="auto")}
    failing.leave_word("prepare_data", given, DataError("wrong", "there"))
    command = next(line for line in told[0].splitlines() if "fm prepare" in line)
    assert f"fm prepare photos: {tmp_path / 'out'} --size 64 --method box --exif ignore --alpha white" in command
    assert command.endswith("--shard-images 1000 --accept-missing --address auto`")


def test_a_comparison_and_a_rerun_go_on_by_their_own_commands() -> None:
    given = {"dataset": "cifar10", "out": "runs/x", "source": "my data", "scale": "full", "seeds": 3, "place": Place()}
    given |= {"methods": ("fm-ot", "ddpm"), "changes": ("training.keep=2",), "allow_different_data": True}
    again = "fm paper runs/x --dataset cifar10 --scale full --seeds 3 --source 'my data' --methods fm-ot,ddpm"
    assert failing.command_again("paper", given) == f"{again} --set training.keep=2 --allow-different-data"
    given |= {"source": "", "methods": (), "changes": (), "allow_different_data": False, "place": Place(workers=8)}
    assert failing.command_again("paper", given) == (
        "fm paper runs/x --dataset cifar10 --scale full --seeds 3 --workers 8"
    )
    drawn = {
        "teacher": "runs/x",
        "run": "runs/y",
        "begin": "run",
        "tolerance": 1e-4,
        "images": 500,
        "changes": ("a=b",),
    }
    again = "fm reflow runs/x runs/y --begin run --tolerance 0.0001 --images 500 --set a=b --workers 8"
    assert failing.command_again("reflow", drawn | {"place": Place(workers=8)}) == again
    late = {"source": "photos:", "run": "runs/x", "place": Place(), "start_at": "evaluate"}
    assert failing.command_again("pipeline", late) == "fm pipeline photos: runs/x --preset runs/x --from evaluate"
    rows = {"run": "runs/x", "keys": ("abc", "def"), "place": Place()}
    again = "fm evaluate --rerun runs/x/evaluations/abc.json --rerun runs/x/evaluations/def.json"
    assert failing.command_again("rerun", rows) == again

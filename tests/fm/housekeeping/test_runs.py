"""Whatever is asked for: what is reported, best, champion or the last good one loads afterwards as it did before."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fm.checkpoints import Saved, kept, newest
from fm.errors import CheckpointError, UserError
from fm.files import write_json
from fm.housekeeping.plan import Kept, Removal
from fm.housekeeping.runs import cited
from fm.housekeeping.tidying import tidied
from fm.keeping import mark_best
from fm.recipe import load
from fm.results import write_row

PLACES = range(10)  # of the checkpoints, the oldest first


def cite(run: Path, saved: Saved, key: str = "") -> None:
    write_row(run, {"key": key or saved.weights[:16], "weights": saved.weights, "fd": 3.5})


def damage(saved: Saved, file: str = "optimizer.safetensors") -> None:
    raw = bytearray((saved.path / file).read_bytes())
    raw[-1] ^= 1
    (saved.path / file).write_bytes(raw)


def answers(run: Path, weights: str) -> Any:
    """What a network says, or that it is not there."""
    try:
        return load(run, weights=weights).sample(4, nfe=2).tolist()
    except CheckpointError as error:
        return str(error)


def left(run: Path) -> list[int]:
    return sorted(int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdigit())


def why(run: Path, **asked: Any) -> dict[str, tuple[bool, str]]:
    """By path whether it goes, and why."""
    plan = tidied(str(run), **asked).plan
    return {str(one.path.relative_to(run)): (isinstance(one, Removal), one.why) for one in (*plan.kept, *plan.removals)}


@settings(max_examples=20)
@given(
    keep=st.none() | st.integers(1, 12),
    reported=st.sets(st.sampled_from(PLACES), max_size=3),
    best=st.sampled_from(PLACES),
    champions=st.lists(st.sampled_from(PLACES), max_size=2),
    broken=st.dictionaries(st.sampled_from(PLACES), st.sampled_from(["ema", "model", "optimizer"]), max_size=4),
)
def test_what_counts_loads_as_before(
    trained: Path, keep: int | None, reported: set[int], best: int, champions: list[int], broken: dict[int, str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(shutil.copytree(trained, Path(folder) / "run"))
        saved = kept(run)
        assert len(saved) == len(PLACES)
        for place in reported:
            cite(run, saved[place])
        mark_best(run, saved[best].path.name, 3.5, "fd")
        if champions:
            named = [saved[place].weights for place in champions]
            write_json(run / "champion.json", {"weights": named if len(named) > 1 else named[0]})
        for place, file in broken.items():
            damage(saved[place], f"{file}.safetensors")
        asked = ["ema", "best", *(saved[place].weights for place in [*reported, *champions])]
        before, last = [answers(run, weights) for weights in asked], newest(run)
        told = [file.read_bytes() for file in sorted((run / "records").iterdir())]

        listed = tidied(str(run), keep)
        assert left(run) == [one.images_seen for one in saved] and not listed.deleted
        done = tidied(str(run), keep, delete=True)
        assert done.plan.removals == listed.plan.removals and not done.plan.failed

        assert [answers(run, weights) for weights in asked] == before
        assert newest(run) == last
        assert [file.read_bytes() for file in sorted((run / "records").iterdir())] == told
        assert tidied(str(run), keep).plan.removals == ()
        if keep is not None and not broken:
            assert len(left(run)) <= keep + len(reported) + 1 + len(champions)


def test_without_a_word_what_the_recipe_keeps_stays(run: Path) -> None:
    assert tidied(str(run), delete=True).plan.bytes > 10_000
    assert left(run) == [256, 512, 576, 640]


def test_each_stays_or_goes_for_a_reason(run: Path) -> None:
    saved = kept(run)
    cite(run, saved[0])
    mark_best(run, saved[1].path.name, 3.5, "fd")
    write_json(run / "champion.json", {"weights": saved[2].weights, "version": 3})
    damage(saved[9], "ema.safetensors")
    found = why(run, keep=2)
    name = [f"checkpoints/{one.path.name}" for one in saved]
    assert found[name[0]] == (False, "a reported number cites its weights")
    assert found[name[1]] == (False, "the best by its evaluation")
    assert found[name[2]] == (False, "champion.json names its weights")
    assert found[name[7]] == (False, "among the newest 2 whole ones")
    assert found[name[8]] == (False, "the newest whole one")
    assert found[name[6]] == (True, "older than the newest 2 whole ones; no reported number cites it")
    assert found[name[9]] == (True, "000000000640/ema.safetensors is damaged; no reported number cites it")
    assert found["evaluations"] == (False, "what was reported") and found["records"] == (False, "what happened")


def test_tables_and_the_champion_cite_too(run: Path) -> None:
    first, second, third, fourth = kept(run)[:4]
    (run / "report").mkdir()
    (run / "report" / "table.csv").write_text(f"key,weights\nk,{first.weights}\n")
    (run / "champion.json").write_text(json.dumps({"weights": [second.weights, third.weights.upper()]}))
    tidied(str(run), keep=1, delete=True)
    assert left(run) == [one.images_seen for one in (first, second, third)] + [640]
    assert fourth.images_seen not in left(run)


def test_what_cannot_be_read_may_cite_anything(run: Path) -> None:
    (run / "evaluations").mkdir()
    (run / "evaluations" / "k.json").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"k\.json: cannot be read \(No such file.*which checkpoints it cites is not"):
        tidied(str(run), keep=1, delete=True)
    (run / "evaluations" / "k.json").unlink()
    (run / "champion.json").write_text("{")
    with pytest.raises(UserError, match=r"champion\.json: names no weights by their SHA-256; restore it, or remove it"):
        tidied(str(run), keep=1, delete=True)
    assert len(left(run)) == 10


def test_where_none_is_whole_all_stay(run: Path) -> None:
    for saved in kept(run):
        damage(saved)
    assert tidied(str(run), keep=1, delete=True).plan.removals == ()
    assert len(left(run)) == 10


def test_one_that_was_set_aside_goes_unless_its_weights_are_cited(run: Path) -> None:
    saved = kept(run)
    for one in saved[7:9]:
        os.rename(one.path, one.path.with_name(f"{one.path.name}.damaged"))
    (run / "checkpoints" / f"{saved[7].path.name}.damaged" / "state.json").write_text("{")
    cite(run, saved[7])
    found = why(run, keep=10)
    assert found[f"checkpoints/{saved[7].path.name}.damaged"] == (False, "a reported number cites its weights")
    assert found[f"checkpoints/{saved[8].path.name}.damaged"][0]


def test_what_is_unknown_or_a_link_stays_and_nothing_behind_it_is_touched(run: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    shutil.copytree(run, outside)
    checkpoints = run / "checkpoints"
    (checkpoints / "notes").write_text("mine")
    (checkpoints / "000000000064" / "notes").write_text("mine")
    shutil.rmtree(checkpoints / "000000000128")
    (checkpoints / "000000000128").symlink_to(outside / "checkpoints" / "000000000128")
    (checkpoints / "000000000192" / "more.safetensors").symlink_to(outside / "recipe.json")
    (run / "mine").mkdir()
    for name in (".ray", ".parts", "logs"):
        (run / name).symlink_to(outside)
    before = sorted(path.relative_to(outside) for path in outside.rglob("*"))
    found = why(run, keep=1)
    for name in ("notes", "000000000064", "000000000192"):
        assert found[f"checkpoints/{name}"] == (False, "unknown, kept"), name
    for name in ("checkpoints/000000000128", ".ray", "logs"):
        assert found[name] == (False, "a link, not followed"), name
    assert found["mine"] == (False, "unknown, kept")
    tidied(str(run), keep=1, delete=True)
    assert left(run) == [64, 128, 192, 640]
    assert sorted(path.relative_to(outside) for path in outside.rglob("*")) == before


def test_what_killed_writers_left_goes_when_it_is_old(run: Path, later: Any) -> None:
    for name in ("records/.train.jsonl.7.part", ".recipe.json.7.part", ".ray/error-7.json"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("{")
    torn = run / "checkpoints" / ".000000000704.7.part"
    shutil.copytree(run / "checkpoints" / "000000000640", torn)
    found = why(run)
    assert found[".ray"] == (True, "scratch of a training that was killed")
    parts = ["records/.train.jsonl.7.part", ".recipe.json.7.part", "checkpoints/.000000000704.7.part"]
    assert [found[name][0] for name in parts] == [False] * 3
    assert {why(run, now=later(2))[name] for name in parts} == {(True, "left by a writer that was killed")}
    tidied(str(run), delete=True, now=later(2))
    assert not torn.exists() and not [*run.rglob("*.part")] and (run / "records" / "train.jsonl").exists()


def test_a_run_of_points_cites_by_what_it_measured(run: Path) -> None:
    from safetensors.torch import save

    first = kept(run)[0]
    words = {"key": "k", "rows": json.dumps([{"weights": first.weights}])}
    (run / "measured.safetensors").write_bytes(save({"x": torch.zeros(2)}, words))
    assert cited([run]).reported >= {first.weights.encode()}
    tidied(str(run), keep=1, delete=True)
    assert left(run) == [64, 640]


def test_sizes_are_those_of_the_files(run: Path) -> None:
    plan = tidied(str(run)).plan
    whole = sum(file.stat().st_size for file in run.rglob("*") if file.is_file())
    assert plan.bytes + sum(one.bytes for one in plan.kept) == whole
    assert all(isinstance(one, Kept) for one in plan.kept)

"""`fm prepare`: a folder of a user's own pictures, good and bad, into shards."""

import json
import tarfile
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import pytest
from PIL import Image

from fm import presets
from fm.data import ShardedImages, load_manifest
from infra.services import ask
from tests.fm.data.serving import served


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Forty good pictures in two classes, one that is no picture and one that ends early."""
    folder = tmp_path / "mixed"
    for name in ("cats", "dogs"):
        (folder / name).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(np.full((40, 50, 3), 5 * i, np.uint8)).save(folder / name / f"{i}.jpg")
    (folder / "cats" / "text.jpg").write_text("not a picture")
    (folder / "dogs" / "half.jpg").write_bytes((folder / "dogs" / "3.jpg").read_bytes()[:400])
    return folder


def test_good_pictures_become_shards_and_bad_ones_are_listed(services: Any, mixed: Path, command: Any) -> None:
    done = command("prepare", str(mixed), "out", "--size", "16", "--json", cwd=mixed.parent)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["train"] + told["test"] == 40
    rejected = [json.loads(line) for line in (mixed.parent / "out" / "rejected.jsonl").read_text().splitlines()]
    assert sorted(Path(r["key"]).stem for r in rejected) == ["half", "text"]
    assert "rejected 1 images (not-an-image)" in done.stdout + done.stderr
    assert "prepare: 42 images in 2 shards, about " in done.stdout + done.stderr
    assert ShardedImages(mixed.parent / "out", "train").classes == ["cats", "dogs"]
    again = command("prepare", str(mixed), "out", "--size", "16", cwd=mixed.parent)
    assert "prepare: unchanged (" in again.stdout + again.stderr
    other = command("prepare", str(mixed), "out", "--size", "32", cwd=mixed.parent)
    assert other.returncode == 2
    assert "holds a data set that was made from another source or with other settings" in other.stderr


def test_describe_prepares_nothing(mixed: Path, command: Any) -> None:
    done = command("prepare", str(mixed), "--describe", "--json", cwd=mixed.parent)
    told = json.loads(done.stdout)
    assert (told["images"], told["classes"], told["unreadable"]) == (42, {"cats": 21, "dogs": 21}, 2)
    assert (told["proposed_size"], told["proposed_preset"]) == (32, "demo") and presets.for_size(9) is None
    assert [p.name for p in mixed.parent.iterdir()] == ["mixed"]


def test_verify_names_what_is_damaged(services: Any, mixed: Path, command: Any) -> None:
    command("prepare", str(mixed), "out", "--size", "16", cwd=mixed.parent)
    tar = mixed.parent / "out" / "shards" / "train-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-1] + b"x")
    done = command("prepare", "out", "--verify", cwd=mixed.parent)
    assert done.returncode == 2
    assert "shards/train-000000.tar is not what was written" in done.stderr


@pytest.mark.parametrize("what", ["empty", "unreadable"])
def test_a_source_without_a_picture_is_one_sentence(services: Any, tmp_path: Path, command: Any, what: str) -> None:
    (tmp_path / "source").mkdir()
    if what == "unreadable":
        (tmp_path / "source" / "a.png").write_text("not a picture")
    done = command("prepare", "source", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: source: ")
    assert "Traceback" not in done.stderr + done.stdout
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_more_pictures_are_added_and_an_event_says_so(services: Any, mixed: Path, command: Any) -> None:
    command("prepare", str(mixed), "out", "--size", "16", cwd=mixed.parent)
    out = mixed.parent / "out"
    before = {path.name: path.read_bytes() for path in (out / "shards").iterdir()}
    (mixed.parent / "more" / "eels").mkdir(parents=True)
    Image.fromarray(np.full((40, 50, 3), 7, np.uint8)).save(mixed.parent / "more" / "eels" / "1.jpg")
    done = command("prepare", "more", "out", "--add", "--json", cwd=mixed.parent)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["train"] + told["test"] == 41 and told["digest"] == load_manifest(out).digest
    assert load_manifest(out).classes == ("cats", "dogs", "eels")
    assert {name: (out / "shards" / name).read_bytes() for name in before} == before
    checked = command("prepare", "out", "--verify", "--json", cwd=mixed.parent)
    assert json.loads(checked.stdout) == told
    query = {"filter": {"event": {"name": ["fm.data.extended"]}}}
    deadline, events = time.monotonic() + 30, []
    while not events and time.monotonic() < deadline:
        events = ask(f"{services.prefect_api}/events/filter", body=query)["events"]
        time.sleep(0.5)
    assert events[0]["payload"]["digest"] == told["digest"] and events[0]["resource"]["prefect.resource.id"] == str(out)
    (mixed.parent / "other").mkdir()
    (mixed.parent / "more" / "eels").rename(mixed.parent / "other" / "ants")
    refused = command("prepare", "other", "out", "--add", cwd=mixed.parent)
    assert refused.returncode == 2 and "its class 'ants' would come before 'cats'" in refused.stderr
    assert command("prepare", "more", "nowhere", "--add", cwd=mixed.parent).returncode == 2


def test_a_signature_is_kept_nowhere(services: Any, deployed: Any, mixed: Path, command: Any) -> None:
    folder, secret = mixed.parent / "signed", "planted-signature"
    folder.mkdir()
    with tarfile.open(folder / "x.tar", "w") as tar:
        for number, picture in enumerate(sorted(mixed.rglob("*.jpg"))[:4]):
            tar.add(picture, f"{number}.jpg")
    with served(folder, key=secret) as root:
        done = command("prepare", f"tars:{root}/x.tar?sig={secret}", "signed-data", "--size", "8", cwd=mixed.parent)
        assert done.returncode == 0, done.stderr
        failed = command("prepare", f"tars:{root}/none.tar?sig={secret}", "no-data", "--size", "8", cwd=mixed.parent)
        assert failed.returncode == 2
    assert secret not in done.stdout + done.stderr + failed.stdout + failed.stderr
    flow_runs = ask(f"{services.prefect_api}/flow_runs/filter", body={"sort": "START_TIME_DESC", "limit": 3})
    assert any(f"prepare tars:{root}/x.tar" in run["name"] for run in flow_runs)
    files = [file for of in (services.state, mixed.parent) for file in of.rglob("*") if file.is_file()]
    assert len(files) > 20 and not [file for file in files if secret.encode() in file.read_bytes()]
    form = {"source": f"tars:{root}/x.tar?sig={secret}", "data": "out", "settings": {"size": 8}}
    with pytest.raises(HTTPError) as refused:
        ask(
            f"{services.prefect_api}/deployments/{deployed.deployments['prepare']['id']}/create_flow_run",
            body={"parameters": form},
        )
    assert refused.value.code == 409

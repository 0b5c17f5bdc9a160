"""Copies of a RUN at a real S3 server and at file://: sent and fetched whole, checkpoints by their state.json."""

import hashlib
import json
import os
import shutil

import fsspec
import pytest

from fm.data import addresses
from fm.errors import UserError
from fm.files import read_json
from fm.lineage import digest
from fm.mirror import ADDRESS, BEST, DRIVER, LEAVE, MACHINE, WORKER, Mirror, publish, writer


@pytest.fixture(params=["s3", "file"])
def address(request, tmp_path, s3):
    """Of a RUN that nobody has written to."""
    return f"s3://bucket/{tmp_path.name}/run" if request.param == "s3" else f"file://{tmp_path}/there/run"


@pytest.fixture
def machine(tmp_path, monkeypatch, address):
    """machine(name, side) -> the copy of that side on a machine of this name, which is then where we are."""

    def move(name, side=WORKER):
        monkeypatch.setenv("FM_CACHE", str(tmp_path / name))
        return Mirror(address, side)

    return move


def checkpoint(mirror, images, text="weights"):
    folder = mirror.folder / "checkpoints" / f"{images:012d}"
    folder.mkdir(parents=True)
    files = {"model": f"{text} {images}", "ema": f"averages {images}"}
    for name, content in files.items():
        (folder / f"{name}.safetensors").write_text(content)
    hashes = {name: hashlib.sha256(content.encode()).hexdigest() for name, content in files.items()}
    (folder / "state.json").write_text(json.dumps({"sha256": hashes, "check": digest({"sha256": hashes})}))
    return folder


def write(mirror, name, text):
    (mirror.folder / name).parent.mkdir(parents=True, exist_ok=True)
    (mirror.folder / name).write_text(text)


def files(mirror):
    found = sorted(path for path in mirror.folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(mirror.folder).as_posix(): path.read_text() for path in found}


def names(mirror):
    return sorted(mirror.there(DRIVER, WORKER))


def test_each_file_has_one_writer():
    ours = ("records/train.jsonl", "samples/a.png", "checkpoints/000/ema.safetensors")
    assert {writer(name) for name in ours} == {WORKER}
    machines = ("logs/rank-0.log", ".ray/error-7.json", "records/system-1.jsonl")
    assert {writer(name) for name in machines} == {MACHINE}
    theirs = ("recipe.json", "evaluations/a.json", "report.html", "report/samples.png", BEST, LEAVE)
    assert {writer(name) for name in theirs} == {DRIVER}
    nobody = ("checkpoints/000.damaged/ema.safetensors", "checkpoints/.000.7.part/ema.safetensors", ".lock", ".ray/x/y")
    assert {writer(name) for name in nobody} == {""}


def test_what_is_sent_is_fetched_elsewhere_once(machine, monkeypatch):
    one = machine("one")
    write(one, "records/train.jsonl", "{}\n")
    checkpoint(one, 64)
    checkpoint(one, 128)
    one.push(WORKER)
    other = machine("other")
    other.pull(DRIVER, WORKER)
    states = [f"checkpoints/{images:012d}/state.json" for images in (64, 128)]
    assert list(files(other)) == [*states, "records/train.jsonl"]
    other.fetch_checkpoint()
    assert files(other) == {name: text for name, text in files(one).items() if name in files(other)}
    assert len(files(other)) == 5 and (other.folder / "checkpoints" / f"{128:012d}" / "ema.safetensors").exists()
    monkeypatch.setattr(type(other), "put", None)
    monkeypatch.setattr("fm.mirror.os.replace", None)  # by which all that is fetched takes its name
    other.pull(DRIVER, WORKER)
    other.fetch_checkpoint()
    other.push(WORKER)


def test_what_changes_and_goes_on_one_side_does_on_the_other(machine):
    one, reader = machine("one"), machine("reader", DRIVER)
    write(one, "records/train.jsonl", "one\n")
    folder = checkpoint(one, 64)
    one.push(WORKER)
    reader.pull(WORKER)
    reader.fetch_checkpoint()
    write(one, "records/train.jsonl", "one\ntwo\n")
    folder.rename(folder.with_name("gone.damaged"))
    checkpoint(one, 128)
    one.push(WORKER)
    reader.pull(WORKER)
    assert list(files(reader)) == [f"checkpoints/{128:012d}/state.json", "records/train.jsonl"]
    assert files(reader)["records/train.jsonl"] == "one\ntwo\n"
    assert not folder.exists() and [name for name in names(one) if "64" in name] == []


@pytest.mark.parametrize("lost", [".", "checkpoints"])
def test_a_copy_that_is_lost_takes_no_checkpoint_with_it(machine, lost):
    one = machine("one")
    for images in (64, 128, 192):
        checkpoint(one, images)
    one.push(WORKER)
    there = names(one)
    shutil.rmtree(one.folder / lost)
    one.pull(WORKER, forget=True)
    one.fetch_checkpoint()
    one.push(WORKER)
    assert names(one) == there
    shutil.rmtree(one.folder / "checkpoints" / f"{64:012d}")  # what goes as a whole still does
    one.push(WORKER)
    assert names(one) == [name for name in there if f"{64:012d}" not in name]


def test_a_copy_that_is_lost_while_it_is_worked_in_takes_nothing_with_it(machine, monkeypatch):
    one, put = machine("one"), Mirror.put
    checkpoint(one, 64)
    one.push(WORKER)
    there = names(one)
    checkpoint(one, 128)
    monkeypatch.setattr(Mirror, "put", lambda self, name: shutil.rmtree(self.folder) or put(self, name))
    one.push(WORKER)
    monkeypatch.setattr(Mirror, "put", put)
    write(one, "records/train.jsonl", "{}\n")
    one.push(WORKER)
    assert names(one) == [*there, "records/train.jsonl"]


def test_a_push_that_is_killed_leaves_no_checkpoint_and_the_next_goes_on(machine, monkeypatch):
    one, put, sent = machine("one"), Mirror.put, []

    def killed(self, name):
        sent.append(name)
        if len(sent) == 3:
            raise KeyboardInterrupt
        return put(self, name)

    write(one, "records/train.jsonl", "{}\n")
    folder = checkpoint(one, 64)
    monkeypatch.setattr(Mirror, "put", killed)
    with pytest.raises(KeyboardInterrupt):
        one.push(WORKER)
    there = names(one)
    assert there == [f"checkpoints/{64:012d}/ema.safetensors", "records/train.jsonl"]
    other = machine("other")
    other.pull(WORKER, forget=True)
    other.fetch_checkpoint()
    assert list(files(other)) == ["records/train.jsonl"]
    one = machine("one")
    one.push(WORKER)
    assert sent[3:] == [f"checkpoints/{64:012d}/{name}" for name in ("model.safetensors", "state.json")]
    assert folder.exists()


def test_what_is_damaged_here_is_fetched_again_and_there_passed_over(machine):
    one = machine("one")
    checkpoint(one, 64)
    newest = checkpoint(one, 128)
    one.push(WORKER)
    other = machine("other")
    other.pull(WORKER)
    other.fetch_checkpoint()
    there = other.folder / "checkpoints" / newest.name / "ema.safetensors"
    stat = there.stat()
    there.write_text("averageS 128")
    os.utime(there, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a disk does that rots
    other.fetch_checkpoint()
    assert there.read_text() == "averages 128"
    (newest / "ema.safetensors").write_text("averageS 128")
    one = machine("one")
    one.push(WORKER)
    third = machine("third")
    third.pull(WORKER)
    third.fetch_checkpoint()
    assert (third.folder / "checkpoints" / f"{64:012d}" / "ema.safetensors").read_text() == "averages 64"


def test_a_state_that_does_not_fit_its_own_digest_is_passed_over(machine):
    one = machine("one")
    checkpoint(one, 64)
    newest = checkpoint(one, 128)
    state = json.loads((newest / "state.json").read_text())
    (newest / "state.json").write_text(json.dumps(state | {"images_seen": 129}))  # JSON still, and not what was written
    one.push(WORKER)
    other = machine("other")
    other.pull(WORKER)
    other.fetch_checkpoint()
    assert (other.folder / "checkpoints" / f"{64:012d}" / "ema.safetensors").read_text() == "averages 64"


def test_the_best_checkpoint_comes_by_its_name(machine):
    one, driver = machine("one"), machine("one", DRIVER)
    best = checkpoint(one, 64)
    checkpoint(one, 128)
    write(driver, BEST, json.dumps({"checkpoint": best.name}))
    one.push(WORKER)
    driver.push(DRIVER)
    reader = machine("other", DRIVER)
    reader.pull(DRIVER, WORKER)
    reader.fetch_checkpoint("best")
    assert [name for name in files(reader) if name.endswith("ema.safetensors")] == [
        f"checkpoints/{best.name}/ema.safetensors"
    ]


def test_a_checkpoint_comes_by_its_weights_hash(machine):
    one = machine("one")
    older = checkpoint(one, 64)
    checkpoint(one, 128)
    one.push(WORKER)
    reader = machine("other", DRIVER)
    reader.pull(DRIVER, WORKER)
    reader.fetch_checkpoint(read_json(older / "state.json")["sha256"]["ema"])
    assert [name for name in files(reader) if name.endswith("ema.safetensors")] == [
        f"checkpoints/{older.name}/ema.safetensors"
    ]


def test_what_was_never_sent_stays_only_while_nobody_else_went_on(machine):
    one = machine("one")
    write(one, "records/train.jsonl", "one\n")
    one.push(WORKER)
    write(one, "records/train.jsonl", "one\ntwo\n")
    ahead = checkpoint(one, 64)
    one.pull(WORKER, forget=True)
    assert ahead.exists() and files(one)["records/train.jsonl"] == "one\ntwo\n"
    other = machine("other")
    other.pull(WORKER, forget=True)
    write(other, "records/train.jsonl", "one\nother\n")
    other.push(WORKER)
    one = machine("one")
    one.pull(WORKER, forget=True)
    assert not ahead.exists() and files(one) == {"records/train.jsonl": "one\nother\n"}


def test_a_checkpoint_that_goes_while_it_is_sent_is_left_alone(machine, monkeypatch):
    one, put = machine("one"), Mirror.put

    def removed(self, name):
        for path in folder.iterdir():
            path.unlink()
        return put(self, name)

    folder = checkpoint(one, 64)
    monkeypatch.setattr(Mirror, "put", removed)
    one.push(WORKER)
    assert names(one) == []


def test_objects_that_stand_for_folders_are_no_files(tmp_path, s3, monkeypatch):
    monkeypatch.setenv("FM_CACHE", str(tmp_path))
    mirror = Mirror(f"s3://bucket/{tmp_path.name}/run", DRIVER)
    for name in ("", "records/", "records/train.jsonl"):
        s3.pipe_file(f"{mirror.address}/{name}", b"")
    assert names(mirror) == ["records/train.jsonl"]


def test_a_data_set_is_sent_once_its_manifest_last(tmp_path, s3, monkeypatch):
    monkeypatch.setenv("FM_CACHE", str(tmp_path / "cache"))
    there, put, sent = f"s3://bucket/{tmp_path.name}/data/mine", Mirror.put, []
    monkeypatch.setattr(Mirror, "put", lambda self, name: sent.append(name) or put(self, name))
    for name in ("manifest.json", "shards/train.tar", "index/.lock"):
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text(name)
    for _ in range(2):
        publish(tmp_path / "mine", there)
        assert sent == ["shards/train.tar", "manifest.json"]
    assert sorted(s3.find(there)) == [f"{there[5:]}/manifest.json", f"{there[5:]}/shards/train.tar"]


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("s4://bucket/run", r"^s4://bucket/run: cannot be read \(fsspec knows no s4://\); known: .*s3, s3a"),
        ("s3://", "^s3://: names no RUN; name one below it, e.g. s3://bucket/runs/mine$"),
        ("s3://bucket/run?X-Amz-Signature=secret", "^s3://bucket/run: is signed, and a RUN is written to; give"),
        ("gs://bucket/run", r"^gs://bucket/run: cannot be read \(Please install gcsfs to access Google Storage\)"),
    ],
)
def test_an_address_that_cannot_hold_a_run_is_one_sentence(address, says, monkeypatch):
    with pytest.raises(UserError, match=says):
        Mirror(address, DRIVER).pull(DRIVER)


def test_a_bucket_that_is_not_there_and_one_that_is_refused(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("FM_CACHE", str(tmp_path))
    mirror = Mirror("s3://no-such-bucket/run", DRIVER)
    mirror.pull(DRIVER)
    write(mirror, "recipe.json", "{}")
    with pytest.raises(UserError, match=r"^s3://no-such-bucket/run: cannot be written \(no such bucket or folder\)$"):
        mirror.push(DRIVER)


def test_an_address_that_is_away_for_a_moment_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setenv("FM_CACHE", str(tmp_path))
    monkeypatch.setattr(addresses, "PAUSES_S", (0, 0))
    memory, fails = type(fsspec.filesystem("memory")), [2]
    real = memory.put_file

    def away(self, *args, **kwargs):
        if fails[0]:
            fails[0] -= 1
            raise ConnectionResetError("away")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(memory, "put_file", away)
    mirror = Mirror(f"memory://{tmp_path.name}/run", DRIVER)
    write(mirror, "recipe.json", "{}")
    mirror.push(DRIVER)
    assert names(mirror) == ["recipe.json"]
    write(mirror, "recipe.json", "{ }")
    fails[0] = 3
    with pytest.raises(UserError, match=r"/run: cannot be written \(ConnectionResetError: away\)$"):
        mirror.push(DRIVER)


def test_what_the_address_has_not_is_known_and_of_what_it_is_a_copy(machine):
    one = machine("one")
    write(one, "records/train.jsonl", "{}\n")
    checkpoint(one, 64)
    assert len(one.unsent()) == 4
    one.push(WORKER)
    assert one.unsent() == [] and (one.place / ADDRESS).read_text() == one.address
    write(one, "records/train.jsonl", "{}\n{}\n")
    write(one, ".parts/k/samples-0.safetensors", "never sent")
    (one.folder / "link").symlink_to("nowhere")
    Mirror(one.address, "other").remove(f"checkpoints/{64:012d}/ema.safetensors")
    lost = [".parts/k/samples-0.safetensors", f"checkpoints/{64:012d}/ema.safetensors", "link", "records/train.jsonl"]
    assert one.unsent() == lost
    reader = machine("reader", DRIVER)
    reader.pull(DRIVER, WORKER)
    assert reader.unsent() == []

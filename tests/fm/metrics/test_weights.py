import hashlib
import stat

import pytest

from fm.errors import UserError
from fm.metrics.weights import Weights


@pytest.fixture
def published(tmp_path, monkeypatch) -> Weights:
    monkeypatch.setenv("FM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FM_INCEPTION", raising=False)
    (tmp_path / "elsewhere").mkdir()
    return Weights("net.pt", hashlib.sha256(b"published").hexdigest(), tmp_path / "elsewhere")


@pytest.mark.parametrize("named", ["", "given", "given/net.pt", "given/my-copy.pt"])
def test_the_file_is_found_checked_and_kept_for_this_user_alone(published, tmp_path, monkeypatch, named):
    place = tmp_path / (named or "elsewhere")
    file = place if place.suffix else place / "net.pt"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"published")
    if named:
        monkeypatch.setenv("FM_INCEPTION", str(place))
    assert published.read() == b"published"
    (kept,) = (tmp_path / "cache").rglob("net.pt")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600 and stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    file.unlink()
    assert published.read() == b"published"  # from the cache


def test_a_missing_file_is_one_line_with_its_name_and_place(published, tmp_path):
    with pytest.raises(UserError) as caught:
        published.read()
    said = str(caught.value)
    assert said.startswith("net.pt is not on this machine; set FM_INCEPTION to")
    assert str(tmp_path / "cache") in said and "\n" not in said


def test_a_file_with_another_hash_is_refused_and_not_kept(published, tmp_path):
    (tmp_path / "elsewhere/net.pt").write_bytes(b"published, and a bit more")
    with pytest.raises(UserError, match=r"elsewhere/net.pt: is not the published net.pt: its SHA-256 begins with"):
        published.read()
    assert not list(tmp_path.glob("cache/**/net.pt"))


def test_a_damaged_copy_in_the_cache_is_said(published, tmp_path):
    (tmp_path / "elsewhere/net.pt").write_bytes(b"published")
    published.read()
    next(tmp_path.glob("cache/*/net.pt")).write_bytes(b"cut")
    with pytest.raises(UserError, match=r"cache/.*net.pt: is not the published"):
        published.read()


def test_nothing_is_looked_for_elsewhere_when_a_place_is_named(published, tmp_path, monkeypatch):
    (tmp_path / "elsewhere/net.pt").write_bytes(b"published")
    monkeypatch.setenv("FM_INCEPTION", str(tmp_path))
    with pytest.raises(UserError, match="is not on this machine"):
        published.read()

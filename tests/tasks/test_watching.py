from pathlib import Path

import pytest

from tasks import watching


def test_nothing_that_prefect_does_can_fail_the_work(monkeypatch) -> None:
    def away(**kwargs: object) -> None:
        raise ConnectionError

    said: list[str] = []
    monkeypatch.setattr(watching, "get_run_logger", lambda: type("Log", (), {"warning": staticmethod(said.append)}))
    assert watching._safely(away, key="table") is None
    assert said == ["Prefect did not take table (ConnectionError); going on"]


def test_what_comes_from_data_is_escaped_in_every_kind_of_artifact(monkeypatch, tmp_path: Path) -> None:
    made: list[str] = []

    def create(*args: object, **kwargs: object) -> str:
        made.append(f"{args} {kwargs}")
        return "id"

    for name in ("link", "markdown", "progress", "table"):
        monkeypatch.setattr(watching, f"create_{name}_artifact", create)
    monkeypatch.setattr(watching, "update_progress_artifact", create)
    monkeypatch.setattr(watching, "say", lambda line: None)
    bad = "<script>alert(1)</script>"
    (tmp_path / "a.png").write_bytes(b"a")
    watching.link("key", "http://there", bad)
    watching.table("key", [[bad], [bad]], bad)
    watching.markdown("key", f"of {bad}", bad)
    watching.picture("key", tmp_path / "a.png", bad)
    watching.Progress("key", bad).update(0.5, bad, now=True)
    assert len(made) == 6 and all("&lt;script&gt;alert(1)" in one and "<script" not in one for one in made)


def test_the_last_word_of_a_progress_is_always_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """However soon it comes: a part that is done at once must not be shown at 0 %."""
    said: list[str] = []
    monkeypatch.setattr(watching, "say", said.append)
    monkeypatch.setattr(watching, "create_progress_artifact", lambda **_: None)
    progress = watching.Progress("key", "features", every_s=3600)
    progress.update(0.5, "half")
    progress.update(1.0, "all")
    assert said == ["features: all"]

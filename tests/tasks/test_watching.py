from pathlib import Path

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

from tasks import watching


def test_nothing_that_prefect_does_can_fail_the_work(monkeypatch) -> None:
    def away(**kwargs: object) -> None:
        raise ConnectionError

    said: list[str] = []
    monkeypatch.setattr(watching, "get_run_logger", lambda: type("Log", (), {"warning": staticmethod(said.append)}))
    assert watching._safely(away, key="table") is None
    assert said == ["Prefect did not take table (ConnectionError); going on"]

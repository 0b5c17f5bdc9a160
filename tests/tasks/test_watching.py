import logging

from fm.errors import DataError
from tasks import watching


def record(error: Exception) -> logging.LogRecord:
    return logging.LogRecord("a", logging.ERROR, "", 0, "failed: %s", ("x",), (type(error), error, None))


def test_a_users_error_is_a_sentence_in_the_log_and_a_bug_keeps_its_traceback() -> None:
    user, bug = record(DataError("wrong", "there")), record(ZeroDivisionError())
    assert watching._SENTENCES.filter(user) and watching._SENTENCES.filter(bug)
    assert (user.getMessage(), user.exc_info) == ("there: wrong", None)
    assert bug.exc_info is not None


def test_a_flows_body_ends_in_a_state_with_the_sentence() -> None:
    @watching.in_sentences
    def body(x: int) -> int:
        """Words."""
        if x == 0:
            raise DataError("wrong", "there", "mend it")
        return x

    assert body(3) == 3
    state = body(0)
    assert state.is_failed() and state.message == "there: wrong; mend it"
    assert body.__doc__ == "Words."


def test_nothing_that_prefect_does_can_fail_the_work(monkeypatch) -> None:
    def away(**kwargs: object) -> None:
        raise ConnectionError

    said: list[str] = []
    monkeypatch.setattr(watching, "get_run_logger", lambda: type("Log", (), {"warning": staticmethod(said.append)}))
    assert watching._safely(away, key="table") is None
    assert said == ["Prefect did not take table (ConnectionError); going on"]

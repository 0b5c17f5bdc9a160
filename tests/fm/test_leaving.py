"""SIGTERM and the file, heard; and nothing of it left afterwards."""

import os
import signal
import threading

from fm.leaving import told_to_leave


def test_sigterm_is_heard_in_the_block_and_the_old_handler_comes_back(tmp_path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with told_to_leave(tmp_path / "leave") as told:
        assert not told()
        os.kill(os.getpid(), signal.SIGTERM)
        assert told() and told()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_file_is_heard_in_any_thread(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("fm.leaving.LOOK_S", 0.0)
    heard = []

    def work() -> None:
        with told_to_leave(tmp_path / "leave") as told:
            heard.append(told())
            (tmp_path / "leave").touch()
            heard.append(told())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert heard == [False, True]

import os
import subprocess
import sys
from pathlib import Path

from tasks import sessions


def test_a_session_lives_as_long_as_its_process(tmp_path: Path) -> None:
    assert sessions.last(tmp_path) == {} and not sessions.alive({}, str(tmp_path))
    session = sessions.noted(tmp_path, {"stage": "train"})
    assert sessions.last(tmp_path) == session and session["process"] == os.getpid()
    assert sessions.alive(session, str(tmp_path))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert not sessions.alive(session | {"process": gone.pid}, str(tmp_path))
    assert sessions.alive(session | {"process": gone.pid, "host": "elsewhere"}, str(tmp_path))

"""RUN/session.json: what the flow at work in RUN said last of itself, and whether its process still lives; and what
tells a RUN from a later one in the same folder."""

import os
import socket
import time
import uuid
from pathlib import Path
from typing import Any

from fm.files import read_json, write_json

NAME, IDENTITY = "session.json", "tracking.json"


def noted(run: Path, session: dict[str, Any]) -> dict[str, Any]:
    """The session as it stands in RUN from now on: with the time, and the process that this is."""
    said = session | {"time": time.time(), "host": socket.gethostname(), "process": os.getpid()}
    write_json(run / NAME, said)
    return said


def last(run: Path) -> dict[str, Any]:
    """The session of the newest flow in RUN; nothing if there was none."""
    return read_json(run / NAME) if (run / NAME).exists() else {}


def alive(session: dict[str, Any], run: str) -> bool:
    """Whether the flow of a session still runs; of another machine's, in a folder, nobody knows: yes."""
    if session and "://" in run:
        from fm.runs import at_work

        return at_work(run)
    if not session or session["host"] != socket.gethostname():
        return bool(session)
    try:
        os.kill(session["process"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True


def identity(run: Path) -> str:
    """A name for this RUN that a later RUN in the same folder does not share."""
    file = run / IDENTITY
    if not file.exists():
        write_json(file, {"id": uuid.uuid4().hex})
    return str(read_json(file)["id"])

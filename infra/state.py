"""The state folder: what runs from it at which ports, the lock, Ray's token, and a name short enough for sockets.

.state/  services.json lock ray-token supervisor.beat prefect/ mlflow/mlflow.db mlflow/artifacts/ ray/ logs/NAME.log
"""

import fcntl
import getpass
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fm.errors import SettingsError, UserError
from fm.files import writable_folder, write_json
from fm.lineage import digest
from infra.access import HOST, ray_token, reached_at
from infra.processes import Started

LONGEST_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
LONGEST_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/dash_ReportHead"


@dataclass(frozen=True)
class Ports:
    """Where one set of services listens: the host, by which name others reach it, and the ports."""

    prefect: int = 4200
    mlflow: int = 5000
    ray: int = 6379
    dashboard: int = 8265
    ray_client: int = 10001  # nobody uses ray:// here, but Ray cannot be told to leave it out
    host: str = HOST
    address: str = HOST

    @classmethod
    def from_base(cls, base: int | None, host: str = HOST) -> "Ports":
        """Five ports in a row from `base` on, or the usual ones if it is None.

        Raises: SettingsError if one of them is no port that a user may open; UserError if nobody can reach the host.
        """
        if base is None:
            return cls(host=host, address=reached_at(host))
        if not 1024 <= base <= 65531:
            raise SettingsError(f"{base} is out of range", where="--port-base", mend="choose 1024 to 65531")
        return cls(*range(base, base + 5), host=host, address=reached_at(host))


@dataclass
class Record:
    """What runs from a state folder. `kept` by `fm up` until `fm down`; else it ends with the last of its `holders`.

    `logins` names the services that ask for one.
    """

    state: Path
    ports: Ports = field(default_factory=Ports)
    processes: dict[str, Started] = field(default_factory=dict)
    holders: list[Started] = field(default_factory=list)
    kept: bool = False
    logins: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, state: Path) -> "Record":
        """The record of a state folder; an empty one if nothing runs from it.

        Raises: UserError if another version of this code left it.
        """
        file = state / "services.json"
        try:
            saved = json.loads(file.read_text())
        except (FileNotFoundError, ValueError):
            return cls(state)
        try:
            return cls(
                state,
                Ports(**saved["ports"]),
                {name: Started(**one) for name, one in saved["processes"].items()},
                [Started(**one) for one in saved["holders"]],
                saved["kept"],
                saved.get("logins", []),
            )
        except (TypeError, KeyError):
            mend = "`fm down` by that version first, or choose another state folder with FM_STATE"
            raise UserError("was written by another version of this code", str(file), mend) from None

    def save(self) -> None:
        value = asdict(self)
        del value["state"]
        write_json(self.state / "services.json", value)

    def log(self, name: str) -> Path:
        return self.state / "logs" / f"{name}.log"


@contextmanager
def held(state: Path, wait: bool = True) -> Iterator[Record]:
    """The record of a state folder, for one process at a time to change; others wait here until it is let go.

    Raises: UserError if the folder cannot be made or written; BlockingIOError if held, unless `wait`.
    """
    writable_folder(state)
    with open(state / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield Record.load(state)


def make_folders(state: Path, given_token: bool = False) -> None:
    """Makes what the services expect: their folders, Ray's token, and the short name of the state folder.

    The token is the one that the environment gives, if others are to know it, else one of this folder's own.

    Raises: UserError if Ray's sockets cannot have a path short enough.
    """
    link_short_folder(state)
    state.chmod(0o700)
    for name in ("prefect", "mlflow/artifacts", "ray", "logs"):
        writable_folder(state / name)
    token = state / "ray-token"
    if given_token or not token.exists():
        with open(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(ray_token() if given_token else secrets.token_hex(32))


def short_folder(state: Path) -> Path:
    """A name of the state folder under which Ray's sockets fit the system's limit: its own, or a short link to it.

    Raises: UserError if no folder for temporary files is short enough for the link.
    """
    link = f"fm-{getpass.getuser()}-{digest(str(state))[:8]}"
    for folder in (state, Path(tempfile.gettempdir(), link), Path("/tmp", link)):
        if len(os.fsencode(folder)) + len(LONGEST_SOCKET) <= LONGEST_SOCKET_BYTES:
            return folder
    raise UserError(
        f"too long a path, Ray's sockets must fit {LONGEST_SOCKET_BYTES} bytes",
        where=str(state),
        mend="put the project in a folder with a shorter path",
    )


def link_short_folder(state: Path) -> None:
    link = short_folder(state)
    if link == state or (link.is_symlink() and link.lstat().st_uid == os.getuid() and link.readlink() == state):
        return
    try:
        link.symlink_to(state)
    except OSError as error:
        raise UserError(
            f"cannot be linked to {state} ({error.strerror}), whose own path is too long for Ray's sockets",
            where=str(link),
            mend="remove what is there, or put the project in a folder with a shorter path",
        ) from None


def unlink_short_folder(state: Path) -> None:
    link = short_folder(state)
    if link != state and link.is_symlink() and link.readlink() == state:
        link.unlink()

"""Two `fm up` at once, with the real services: one set, in which a pipeline runs, and after `fm down` nothing of it
outside the state folder and RUN."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra import processes
from infra.services import services
from infra.state import Ports, short_folder

ROOT = Path(__file__).parents[2]
ELSEWHERE = (
    "FM_CACHE",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "MPLCONFIGDIR",
    "TORCHINDUCTOR_CACHE_DIR",
)
"""Variables by which something could be written where this test does not look."""


def listed(folders: list[Path]) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*"))


def in_the_project() -> set[str]:
    """What lies in the project's folder, beside what the tools of its developers keep there."""
    return {path.name for path in ROOT.iterdir() if not path.name.endswith("_cache")}


def in_common_folders() -> set[Path]:
    return {path for folder in ("/tmp", "/var/tmp", "/dev/shm") for path in Path(folder).iterdir()}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_at_once_make_one_set_that_goes_without_a_trace(tmp_path: Path, ports: Ports) -> None:
    state, home, work, temporary = (tmp_path.resolve() / name for name in ("state", "home", "work", "temporary"))
    for folder in (home, work, temporary):
        folder.mkdir()
    given = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    given |= {"FM_STATE": str(state), "HOME": str(home), "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
    given |= {"FM_START_S": "1200"}
    project, common = in_the_project(), in_common_folders()

    def fm(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "flows.cli", *arguments]
        return subprocess.Popen(
            command, cwd=work, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    try:
        both = [fm("up", "--port-base", str(ports.prefect)) for _ in range(2)]
        said = [one.communicate(timeout=1500)[0] for one in both]
        assert [one.returncode for one in both] == [0, 0], "\n".join(said)
        assert [text.count(" healthy ") for text in said] == [5, 5], "\n".join(said)
        started = processes.belonging(state, marked=True)
        commands = [process.cmdline() for process in started]
        counted = {name: commands.count([*service.command]) for name, service in services(state, ports).items()}
        assert counted == dict.fromkeys(("prefect", "mlflow", "ray", "worker", "supervisor"), 1)
        assert [process.name() for process in started].count("raylet") == 1
        listening = {c.laddr.port for one in started for c in one.net_connections("tcp") if c.status == "LISTEN"}
        assert listening >= {ports.prefect, ports.mlflow, ports.ray, ports.dashboard, ports.ray_client}
        small = ["--preset", "tiny", "--workers", "1", "--set", "training.total_images=640"]
        pipeline = fm("pipeline", "photos:?tiles=80", "runs/tiny", *small, "--port-base", str(ports.prefect))
        told = pipeline.communicate(timeout=1200)[0]
        assert pipeline.returncode == 0, told
    finally:
        down = fm("down")
        stopped = down.communicate(timeout=300)[0]
    assert (down.returncode, stopped) == (0, "stopped supervisor, worker, ray, mlflow, prefect\n")
    assert processes.belonging(state, marked=True) == []
    assert [port for port in listening if processes.port_in_use(port)] == []
    assert (work / "runs" / "tiny" / "report.html").exists()
    assert [path.name for path in work.iterdir()] == ["runs"]
    assert [path.name for path in (work / "runs").iterdir() if path.name not in ("data", "tiny")] == []
    assert listed([home, temporary]) == [] and in_the_project() == project
    assert in_common_folders() <= common
    assert not Path("/tmp", short_folder(state).name).is_symlink()

"""Services that start in a blink, for the rules of a set; and their supervisor, the real one over stand-ins."""

import sys
from pathlib import Path

from infra import local, processes, supervisor
from infra.services import SUPERVISOR, Service, beat
from infra.state import Ports

SERVER = (sys.executable, "-m", "http.server", "--bind", "127.0.0.1")


def stand_ins(state: Path, ports: Ports) -> dict[str, Service]:
    def serve(port: int, **more) -> Service:
        return Service(
            url=f"http://127.0.0.1:{port}",
            ports=(port,),
            command=(*SERVER, "--directory", str(state), str(port)),
            healthy=lambda started: processes.port_in_use(port),
            **more,
        )

    return {
        "prefect": serve(ports.prefect),
        "mlflow": serve(ports.mlflow),
        "ray": serve(ports.ray),
        "worker": serve(ports.ray_client, after=("prefect",)),
        SUPERVISOR: Service(
            url="",
            command=(sys.executable, "-m", "tests.infra.stand_ins", str(state)),
            environment={"PYTHONPATH": str(Path(__file__).parents[2])},
            healthy=lambda started: beat(state).stat().st_mtime > started - 1,
        ),
    }


if __name__ == "__main__":
    local.services = stand_ins
    supervisor.TICK_S, supervisor.RETRY_S = 0.05, 0.2
    supervisor.PAUSES_S = (0.0, 0.1, 0.1)
    supervisor.supervise(Path(sys.argv[1]))

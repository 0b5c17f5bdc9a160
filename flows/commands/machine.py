"""The commands for this machine and its services: `fm up`, `down`, `status`, `logs`, `doctor`."""

import json
import math
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.answered import tell, tell_network
from flows.commands.asked import AsJson, PortBase, existing, state
from fm.errors import UserError
from infra import local
from infra.access import HOST, unsaid
from infra.state import Ports


def up(
    port_base: PortBase = None,
    host: Annotated[
        str,
        typer.Option(envvar="FM_HOST", help="Listen here, not on 127.0.0.1: an address of this machine, or 0.0.0.0."),
    ] = HOST,
) -> None:
    """Start Prefect with a worker, MLflow and Ray on this machine, keep them up, and deploy prefect.yaml."""
    services = local.up(state(), Ports.from_base(port_base, host or HOST))
    typer.echo("deploying prefect.yaml and the automations ...")
    _deploy(services.environment())
    _print_status()
    typer.echo("next: open the first address, Deployments, pipeline-demo, Run. `fm down` stops everything.")


def down() -> None:
    """Stop all that `fm up` started."""
    stopped = local.down(state())
    typer.echo(f"stopped {', '.join(stopped)}" if stopped else f"nothing was running from {state().resolve()}")


def status(
    run: Annotated[str, typer.Argument(metavar="[RUN]", help="A folder or address.")] = "", as_json: AsJson = False
) -> None:
    """The services of this machine, or how far a RUN is."""
    if not run:
        return _print_status(as_json)
    return _status_of(existing(run), run, as_json)


def _status_of(run: Path, name: str, as_json: bool) -> None:
    """How far the RUN in this folder is; at the address `name`, if it is one."""
    from fm.files import read_json
    from fm.records import read
    from tasks import sessions

    data = read_json(run / "data.json") if (run / "data.json").exists() else {}
    training, rows = read_json(run / "recipe.json")["training"], read(run / "records")
    measured = len(list((run / "evaluations").glob("*.json")))
    page = str(run / "report.html") if (run / "report.html").exists() else ""
    session = sessions.last(run)
    failure = read_json(run / "failure.json") if (run / "failure.json").exists() else {}
    if failure and failure["time"] < session.get("time", 0):
        failure = {}  # another start came after it
    stage = session.get("stage", "") if sessions.alive(session, name) else ""
    links = {name: session[name] for name in ("prefect", "mlflow", "ray") if session.get(name)}
    common = {"rows": measured, "report": page, "stage": stage, **links}
    if "imported" in data:
        failed = {"error": failure} if as_json else _failed(failure)
        shown = common if as_json else {name: value or "none" for name, value in common.items()}
        return tell({**data["imported"], **shown, **failed}, as_json)
    last = rows[-1] if rows else {"images_seen": 0}
    saved = max((int(path.name) for path in (run / "checkpoints").glob("[0-9]*") if path.name.isdigit()), default=None)
    if as_json:
        facts = {"total_images": training["total_images"], "checkpoint": saved, "error": failure}
        return tell({**last, **facts, **common}, True)
    done = last["images_seen"] >= training["total_images"] or last.get("seconds", 0) >= (
        training["max_seconds"] or math.inf
    )
    idle = f"nobody is at work here; {'the training is finished' if done else 'the same command goes on'}"
    told = {"stage": stage or idle}
    if stage and session.get("word"):
        told["said last"] = session["word"]
    told["train"] = f"{last['images_seen']:,} of {training['total_images']:,} images"
    if training["max_seconds"]:
        told["train"] += f" or {training['max_seconds']:g} s"
    if rows:
        at = datetime.fromtimestamp(last["time"]).strftime("%Y-%m-%d %H:%M:%S")
        told["train"] += f", loss {last['loss']:.4f}, {last['seconds']:,.0f} s of training, last report {at}"
        if stage == "train":
            told["train"] += f", about {_left_s(training, last):,.0f} s left"
    told["checkpoint"] = "none yet" if saved is None else f"at {saved:,} images seen"
    told |= {"evaluate": f"{measured} cells measured", "report": page or "not yet", **links}
    tell(told | _failed(failure), False)


def _failed(failure: dict[str, Any]) -> dict[str, str]:
    """What RUN/failure.json says, for people."""
    if not failure:
        return {}
    at = datetime.fromtimestamp(failure["time"]).strftime("%Y-%m-%d %H:%M:%S")
    again = f"; go on with `{failure['again']}`" if failure["again"] else ""
    return {"error": f"{failure['error']} ({at}){again}"} | ({"log": failure["log"]} if failure["log"] else {})


def _left_s(training: dict[str, Any], last: dict[str, Any]) -> float:
    by_images = (training["total_images"] - last["images_seen"]) / max(last["images_per_s"], 1e-9)
    by_time = training["max_seconds"] - last["seconds"] if training["max_seconds"] else by_images
    return max(0.0, min(by_images, by_time))


def logs(
    name: Annotated[str, typer.Argument(help="prefect, mlflow, ray, worker or supervisor.")],
    lines: Annotated[int, typer.Option(min=1, help="How many of its last lines.")] = 30,
) -> None:
    """The last lines of a service's log."""
    path = local.log(state(), name)
    typer.echo(unsaid("\n".join(path.read_text(errors="replace").splitlines()[-lines:])))


def doctor(
    metrics: Annotated[
        bool, typer.Option("--metrics", help="The feature networks of evaluations, file by file.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What works on this machine: Python, PyTorch, GPUs; with --metrics, which feature networks can be loaded."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    told: dict[str, Any] = {"python": sys.version.split()[0], "torch": torch.__version__, "gpus": gpus}
    if metrics:
        from fm.metrics.readiness import peers, readiness

        told |= {"features": readiness(), "peers": peers()}
    if as_json:
        return tell(told, True)
    tell(
        told | {"gpus": ", ".join(gpus) or "none", "features": len(told.get("features", ())) or "see --metrics"}, False
    )
    for network in told.get("features", ()):
        tell_network(network)


def _print_status(as_json: bool = False) -> None:
    services = local.status(state())
    if as_json:
        typer.echo(json.dumps([vars(s) for s in services]))
    for s in [] if as_json else services:
        since = datetime.fromtimestamp(s.since).strftime("%H:%M:%S")
        health = "healthy" if s.healthy else f"NOT HEALTHY {s.word}".rstrip()
        typer.echo(f"{s.name:<8} {s.address:<62} {health:<12} {s.memory_bytes / 2**20:5.0f} MiB  since {since}")
    if not services and not as_json:
        typer.echo(f"nothing is running from {state().resolve()}; `fm up` starts the services")
    elif services and not as_json:
        typer.echo(f"state    {state().resolve()}")


def _deploy(environment: dict[str, str]) -> None:
    """Deploys prefect.yaml of the folder that holds this project, and the automations."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "flows.deploying"]
    done = subprocess.run(command, cwd=root, env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode:
        what = str(root / "prefect.yaml")
        raise UserError(f"could not be deployed:\n{unsaid(done.stdout + done.stderr)[-2000:]}", what)

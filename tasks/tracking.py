"""The only file that imports MLflow: it keeps MLflow a copy of what stands in RUN, and never more than that.

One parent run for a RUN, a child for each stage and each cell, found again by tags: sending the same again adds nothing
(points carry their recorded timestamps). MLflow may be away: the work goes on, and the next call sends what is missing.
"""

import contextvars
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fm
from fm.data import Manifest
from fm.data.addresses import is_address, settled
from fm.errors import UserError
from fm.files import read_json
from fm.lineage import leaves
from fm.recipe import Recipe
from fm.records import read
from fm.results import FIDELITIES, Row, distances, label, row_file
from fm.runs import of
from fm.serving import ASKED, WORDS, example
from tasks import sessions, watching

EXPERIMENT = "flow-matching"
VIEW = "workflowType=machine_learning"  # of MLflow's pages; they open in a view of traces, which lists no run
METRICS, PARAMETERS = 1000, 100  # MLflow takes at most so many in one call
NO_METRICS = ("images_seen", "time")  # of a row of the records: its step and timestamp
MEASURED = ("seconds", *FIDELITIES.values())


class Tracking:
    """The copy of one RUN in MLflow. Every method may be repeated, and none raises when MLflow is away."""

    def __init__(self, run: Path, recipe: Recipe, told: Mapping[str, Any] | None = None, under: str = "") -> None:
        """`told` are the run's parameters in place of its recipe's; `under` is the MLflow run that it is part of."""
        self.run, self.recipe, self.under = run, recipe, under
        self.told = leaves(recipe.model_dump(mode="json")) if told is None else told
        self.identity = sessions.identity(run)
        self.sent: dict[str, int] = {}  # name of the records -> images_seen of the newest row that MLflow has
        self.grids: set[int] | None = None  # images seen of those that MLflow has, once it was asked
        self.away = False
        self.seconds: dict[str, float] = {}  # what each stage of this session took
        self.session: dict[str, Any] = {}
        self._runs: dict[str, str] = {}
        self._one_at_a_time = threading.Lock()
        self._sending = threading.Thread()
        self._client: Any = None

    @property
    def url(self) -> str:
        """Where MLflow shows the parent run, in the view that lists runs; empty while MLflow is away."""
        run_id = self._safely(lambda: self._run("pipeline"))
        if not run_id:
            return ""
        return f"{os.environ['MLFLOW_TRACKING_URI']}/#/experiments/{self._experiment}/runs/{run_id}?{VIEW}"

    def open(self) -> None:
        """The parent run with the recipe as its parameters and the way to Prefect."""

        def send() -> None:
            parent, run = self._run("pipeline"), of(self.run)
            self._end_those_of_the_dead()
            self._params(parent, self.told)
            self._client.set_tag(parent, "recipe_digest", self.recipe.digest())
            if url := watching.flow_run_url():
                self._client.set_tag(parent, "prefect_flow_run", url)
                note = f"[Prefect flow run]({url})\n\nRUN: `{watching.shown(run)}`"
                self._client.set_tag(parent, "mlflow.note.content", note)
            self._client.update_run(parent, status="RUNNING")

        self._safely(send)

    def _end_those_of_the_dead(self) -> None:
        """Ends the runs that a killed process left RUNNING: this RUN's, whose one driver is this process, and those of
        RUNs of this machine whose process is gone."""

        def left(folder: str, identity: str) -> bool:
            known = Path(folder, sessions.IDENTITY)  # of another machine's RUN of this path it is another
            there = known.exists() and read_json(known)["id"] == identity
            return there and not sessions.alive(sessions.last(Path(folder)), folder)

        for run in self._client.search_runs([self._experiment], "attributes.status = 'RUNNING'"):
            tags = run.data.tags
            if not tags.keys() >= {"fm.run", "fm.stage", "fm.folder"}:
                continue  # somebody else's
            ours = tags["fm.run"] == self.identity
            if tags["fm.stage"] != "pipeline" if ours else left(tags["fm.folder"], tags["fm.run"]):
                self._client.set_terminated(run.info.run_id, "KILLED")

    def member(self, run: Path, recipe: Recipe) -> AbstractContextManager["Tracking"]:
        """The copy of another RUN whose runs stand under this one's."""
        return tracked(run, recipe, under=self._safely(lambda: self._run("pipeline")) or "")

    def joined(self, dashboard: str) -> None:
        """Where Ray shows the work for this RUN: beside the run in MLflow and in Prefect, and for `fm status RUN`."""
        watching.ray(dashboard)
        self.note(ray=dashboard)
        self._safely(lambda: self._client.set_tag(self._run("pipeline"), "ray_dashboard", dashboard))

    def note(self, **facts: Any) -> None:
        """What the flow at work in RUN is at and where it is shown, for `fm status RUN`."""
        self.session = sessions.noted(self.run, self.session | facts)

    def close(self, status: str) -> None:
        """FINISHED, FAILED or KILLED for the parent run."""
        self._safely(lambda: self._client.set_terminated(self._run("pipeline"), status))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A child run for the length of a stage, which RUN/session.json names meanwhile."""
        self.note(stage=name)
        self._safely(lambda: self._client.update_run(self._run(name), status="RUNNING"))
        start = time.monotonic()
        try:
            yield
        except BaseException as error:
            ended = _ended_by(error)
            if not self.away:  # a process that is told to end has no time to wait for it once more
                self._safely(lambda: self._client.set_terminated(self._run(name), ended))
            raise
        self.seconds[name] = time.monotonic() - start
        self.note(stage="")
        self._safely(lambda: self._client.set_terminated(self._run(name), "FINISHED"))

    def prepared(self, manifest: Manifest) -> None:
        """The facts of the data set on the stage that made it."""

        def send() -> None:
            facts = {"source": manifest.source, "digest": manifest.digest, "rejected": sum(manifest.rejected.values())}
            splits = {f"{name}_images": split.images for name, split in manifest.splits.items()}
            self._params(self._run("prepare"), {**facts, **splits, **leaves(manifest.settings.model_dump(mode="json"))})

        self._safely(send)

    def data(self, manifest: Manifest, root: str | Path) -> None:
        """The data set, a folder or an address, as an input of the parent and of the training."""

        def send() -> None:
            for run in ("pipeline", "train"):
                self._input(self._run(run), manifest, settled(root))

        self._safely(send)

    def training_meanwhile(self) -> None:
        """`training` on a thread, unless the last one is still at it: an MLflow that hangs holds nobody up."""
        if not self._sending.is_alive():
            context = contextvars.copy_context()  # in which Prefect's log knows the run
            self._sending = threading.Thread(target=context.run, args=(self.training,), daemon=True)
            self._sending.start()

    def training(self) -> None:
        """The training rows of RUN/records, and the grids, that MLflow does not have yet; step = images seen."""

        def send() -> None:
            self._send("train", "train/")
            for file in sorted((self.run / "records").glob("system-*.jsonl")):
                node = file.stem.removeprefix("system-")
                self._send(file.stem, "system/" if node == "0" else f"system/node_{node}/")
            for grid in sorted((self.run / "samples").glob("seen-*.png")):
                self._grid(grid)

        self._safely(send)

    def _grid(self, grid: Path) -> None:
        """A grid of samples, unless MLflow has one of that step: it would keep both."""
        from mlflow import Image

        run, seen = self._run("train"), int(grid.stem.removeprefix("seen-"))
        if self.grids is None:  # the small copy, which is sent last, is whole: images/samples+step+640+...
            there = [Path(file.path).name.split("+") for file in self._client.list_artifacts(run, "images")]
            self.grids = {int(parts[2]) for parts in there if parts[0] == "samples" and parts[-1] == "compressed.webp"}
        if seen not in self.grids:
            at = int(1000 * grid.stat().st_mtime)
            self._client.log_image(run, Image(str(grid)), key="samples", step=seen, timestamp=at)
            self.grids.add(seen)

    def _send(self, name: str, prefix: str) -> None:
        """The rows of these records past the newest that MLflow has; what it calls `system/` it shows by itself.

        A row that was lost with its checkpoint and trained again stands there as it was the first time.
        """
        from mlflow.entities import Metric

        rows = read(self.run / "records", after=self.sent.get(name, 0), name=name)
        run = self._run("train")
        if rows and name not in self.sent:  # a start before this one may have sent some
            first = next(key for key in rows[0] if key not in NO_METRICS)
            history = self._client.get_metric_history(run, f"{prefix}{first}")
            self.sent[name] = max((point.step for point in history), default=0)
            rows = [row for row in rows if row["images_seen"] > self.sent[name]]
        at_once = METRICS // max(map(len, rows), default=1)
        for start in range(0, len(rows), at_once):  # whole rows, for MLflow takes a call's metrics all or none
            part = rows[start : start + at_once]
            points = [
                Metric(f"{prefix}{key}", float(value), int(1000 * row["time"]), row["images_seen"])
                for row in part
                for key, value in row.items()
                if key not in NO_METRICS
            ]
            self._client.log_batch(run, metrics=points)
            self.sent[name] = part[-1]["images_seen"]

    def rows(self, rows: Sequence[Row]) -> None:
        """A child run for each row, and the sweep over NFE (step = NFE) on the evaluation's run."""

        def send() -> None:
            for row in rows:
                name = f"{row['method']}, {label(row)}"
                child = self._run(f"cell {row['key']}", name, parent="evaluate")
                numbers = {k: v for k, v in row.items() if isinstance(v, int | float) and not isinstance(v, bool)}
                at = int(1000 * row_file(self.run, row["key"]).stat().st_mtime)
                self._metrics(child, numbers, row["nfe"], at)
                self._params(child, {k: v for k, v in row.items() if isinstance(v, str | bool)})
                self._client.set_terminated(child, "FINISHED")
                sweep = {f"{row['solver']}/{k}": v for k, v in numbers.items() if k in _measured(row)}
                if row["method"] != "untrained":
                    self._metrics(self._run("evaluate"), sweep, row["nfe"], at)

        self._safely(send)

    def along(self, rows: Sequence[Row]) -> None:
        """The distances of the checkpoints on the way, on the training's run; step = images seen."""

        def send() -> None:
            for row in rows:
                at = int(1000 * row_file(self.run, row["key"]).stat().st_mtime)
                self._metrics(
                    self._run("train"), {f"along/{k}": row[k] for k in distances([row])}, row["images_seen"], at
                )

        if rows:
            self._safely(send)

    def keep_model(self, folder: Path, name: str) -> tuple[str, str]:
        """Sends a folder to the parent run's artifacts -> the run, and where the folder is found.

        Raises: UserError if MLflow is away: what the registry names must be there.
        """
        with answering() as client:
            self._connect()
            run = self._run("pipeline")
            client.log_artifacts(run, str(folder), name)
            return run, f"{client.get_run(run).info.artifact_uri}/{name}"

    def figures(self, *files: Path) -> None:
        """Pictures, the table and the report page, with the parent run."""

        def send() -> None:
            for file in files:
                self._client.log_artifact(self._run("pipeline"), str(file), "report")

        self._safely(send)

    def _run(self, stage: str, name: str = "", parent: str = "pipeline") -> str:
        """The id of this RUN's run for a stage or cell, made if MLflow has none."""
        self._connect()
        if stage not in self._runs:
            tags = {"fm.run": self.identity, "fm.stage": stage, "fm.folder": of(self.run)}
            query = f"tags.`fm.run` = '{self.identity}' and tags.`fm.stage` = '{stage}'"
            found = self._client.search_runs([self._experiment], query, max_results=1)
            if above := self._run(parent) if stage != "pipeline" else self.under:
                tags["mlflow.parentRunId"] = above
            title = name or (f"{self.run.name} ({self.recipe.name})" if stage == "pipeline" else stage)
            made = found[0] if found else self._client.create_run(self._experiment, tags=tags, run_name=title)
            self._runs[stage] = made.info.run_id
        return self._runs[stage]

    def _connect(self) -> None:
        if self._client is None:
            os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
            from mlflow import MlflowClient

            client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
            found = client.get_experiment_by_name(EXPERIMENT)
            self._experiment = found.experiment_id if found else client.create_experiment(EXPERIMENT)
            self._client = client

    def _params(self, run_id: str, values: Mapping[str, Any]) -> None:
        """Parameters that MLflow does not have yet: it lets none change."""
        from mlflow.entities import Param

        known = self._client.get_run(run_id).data.params
        new = [Param(k, str(v)[:6000]) for k, v in values.items() if k not in known]
        for start in range(0, len(new), PARAMETERS):
            self._client.log_batch(run_id, params=new[start : start + PARAMETERS])

    def _metrics(self, run_id: str, values: Mapping[str, float], step: int, at_ms: int) -> None:
        from mlflow.entities import Metric

        self._client.log_batch(run_id, metrics=[Metric(k, float(v), at_ms, step) for k, v in values.items()])

    def _input(self, run_id: str, manifest: Manifest, root: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=PurePosixPath(root).name,
            digest=manifest.digest,
            source_type=root.partition("://")[0] if is_address(root) else "local",
            source=root,
            profile=str({name: split.images for name, split in manifest.splits.items()}),
        )
        context = [InputTag("mlflow.data.context", "training")]
        self._client.log_inputs(run_id, [DatasetInput(dataset, context)])

    def _safely(self, send: Callable[[], Any]) -> Any:
        """None, and a word about it, if MLflow is away: what is missing there is still in RUN."""
        if "MLFLOW_TRACKING_URI" not in os.environ:
            return None
        from mlflow.exceptions import MlflowException

        with self._one_at_a_time:
            try:
                self._connect()
                value = send()
            except (MlflowException, OSError) as error:
                if not self.away:
                    watching.say(f"MLflow is away ({type(error).__name__}); nothing is lost, RUN/records keeps it")
                self.away = True
                return None
            self.away = False
            return value


@contextmanager
def tracked(run: Path, recipe: Recipe, told: Mapping[str, Any] | None = None, under: str = "") -> Iterator[Tracking]:
    """RUN's copy in MLflow for the length of a flow, linked with Prefect both ways; `told`, `under` as in Tracking."""
    tracking = Tracking(run, recipe, told, under)
    tracking.open()
    tracking.note(prefect=watching.flow_run_url(), mlflow=tracking.url)
    watching.link("mlflow", tracking.url, f"MLflow: {run.name}")
    try:
        yield tracking
    except BaseException as error:
        if not tracking.away:
            tracking.close(_ended_by(error))
        raise
    tracking.close("FINISHED")
    watching.say("seconds: " + ", ".join(f"{stage} {taken:.0f}" for stage, taken in tracking.seconds.items()))


@contextmanager
def answering() -> Iterator[Any]:
    """MLflow's client for what cannot be sent later, such as the registry.

    Raises: UserError if MLflow is away or refuses.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    address = os.environ.get("MLFLOW_TRACKING_URI", "")
    try:
        yield MlflowClient(address)
    except (MlflowException, OSError) as error:
        why = str(error).strip().splitlines()[0][:200]
        raise UserError(f"MLflow is away or refuses ({why})", address, "start it, and the same again") from None


def fetched(uri: str, into: Path) -> Path:
    """What lies at an address of MLflow's artifacts, as a folder in `into`."""
    from mlflow.artifacts import download_artifacts

    return Path(download_artifacts(artifact_uri=uri, dst_path=str(into)))


def as_pyfunc(published: Path, into: Path, requirements: list[str]) -> None:
    """Makes the folder `into` of a published network: one that MLflow's servers load, with the code of `fm` inside, and
    a request that it answers."""
    from mlflow.models import ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import ColSpec, Schema
    from pandas import DataFrame

    kinds = dict.fromkeys(ASKED, "long") | dict.fromkeys(WORDS, "string")
    save_model(
        str(into),
        loader_module="fm.serving",
        data_path=str(published),
        code_paths=[str(Path(fm.__file__).parent)],
        pip_requirements=requirements,
        signature=ModelSignature(inputs=Schema([ColSpec(kind, name, required=False) for name, kind in kinds.items()])),
        input_example=DataFrame([example(Recipe.load(published).low_size)]),
    )


def _ended_by(error: BaseException) -> str:
    """MLflow's status for work that an error ended; a cancelled flow and Ctrl-C raise what is no Exception."""
    return "FAILED" if isinstance(error, Exception) else "KILLED"


def _measured(row: Row) -> list[str]:
    return [k for k in row if k.startswith("bits_per_dim") or f"{k}_floor" in row or k in MEASURED]

"""Where Prefect and MLflow keep what they know: in the state folder, or at addresses that the environment names.

The addresses hold passwords: they reach the servers through the environment, and nothing else says them.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from fm.errors import UserError

PREFECT_DATABASE, MLFLOW_BACKEND, MLFLOW_ARTIFACTS = "FM_PREFECT_DATABASE", "FM_MLFLOW_BACKEND", "FM_MLFLOW_ARTIFACTS"
PREFECT_SCHEMES = ("sqlite+aiosqlite", "postgresql+asyncpg")
MLFLOW_SCHEMES = ("sqlite", "postgresql", "postgresql+psycopg2", "mysql+pymysql", "mssql+pyodbc")
DRIVERS = {"s3": "boto3", "gs": "google.cloud.storage", "wasbs": "azure.storage.blob"}
"""What MLflow needs for artifacts at such an address."""


@dataclass(frozen=True)
class Stores:
    """Addresses of Prefect's database (empty: its own in PREFECT_HOME), MLflow's database and MLflow's artifacts."""

    prefect: str
    mlflow: str
    artifacts: str

    @classmethod
    def of(cls, state: Path, environment: Mapping[str, str] = os.environ) -> "Stores":
        mlflow = environment.get(MLFLOW_BACKEND) or f"sqlite:///{state / 'mlflow' / 'mlflow.db'}"
        return cls(
            environment.get(PREFECT_DATABASE, ""),
            # Without a driver's name SQLAlchemy 2.1 looks for another one than MLflow's users have.
            mlflow.replace("postgresql://", "postgresql+psycopg2://", 1),
            environment.get(MLFLOW_ARTIFACTS) or str(state / "mlflow" / "artifacts"),
        )


def check(environment: Mapping[str, str] = os.environ) -> None:
    """Whether the servers can be started with these addresses, as far as that can be seen from here.

    Raises: UserError, which never says the address itself.
    """
    _check_scheme(environment, PREFECT_DATABASE, PREFECT_SCHEMES, "postgresql+asyncpg://USER:PASSWORD@HOST/NAME")
    _check_scheme(environment, MLFLOW_BACKEND, MLFLOW_SCHEMES, "postgresql://USER:PASSWORD@HOST/NAME")
    if environment.get(MLFLOW_BACKEND, "").startswith("postgresql") and not find_spec("psycopg2"):
        raise UserError("needs the package psycopg2-binary", MLFLOW_BACKEND, "run `make setup` again")
    artifacts = environment.get(MLFLOW_ARTIFACTS, "")
    scheme, separator, _ = artifacts.partition("://")
    if artifacts and not separator and not Path(artifacts).is_absolute():
        raise UserError("is neither an address nor an absolute path", MLFLOW_ARTIFACTS, "write s3://BUCKET/FOLDER")
    needed = DRIVERS.get(scheme if separator else "", "")
    if needed and not find_spec(needed.split(".")[0]):
        raise UserError(f"needs the package {needed}", MLFLOW_ARTIFACTS, f"install {needed} where `fm up` runs")


def _check_scheme(environment: Mapping[str, str], name: str, known: Iterable[str], example: str) -> None:
    scheme, separator, _ = environment.get(name, "").partition("://")
    if scheme and (scheme not in known or not separator):
        said = f"begins with {scheme}://" if separator else "is no address"
        raise UserError(f"{said}, known are {', '.join(known)}", name, f"write {example}")

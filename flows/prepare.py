"""One stage: pictures -> shards."""

from pathlib import Path

from prefect import flow

from fm.data import Preparation
from tasks import cluster, watching
from tasks.cluster import Place
from tasks.prepare import prepare


@flow(name="prepare", flow_run_name="prepare {source}")
@watching.in_sentences
def prepare_data(source: str, data: str, settings: Preparation, place: Place = Place()) -> str:  # noqa: B008
    """Downsamples and shards pictures into WebDataset tars with a manifest.

    Args:
        source: Pictures: a folder with a folder for each class, tars, archives as downloaded, or photos: (built in).
        data: Folder for the shards, new or to be completed, relative to the project.
        settings: How pictures become shards.
        place: Where it runs. Changes no byte.
    """
    with cluster.session(place):
        return prepare(source, Path(data), settings).digest

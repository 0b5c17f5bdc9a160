"""One stage: pictures -> shards, new or more of them."""

from pathlib import Path

from prefect import flow

from fm.data import Preparation
from tasks import cluster, failing, watching
from tasks.place import Pictures, Place
from tasks.prepare import extend, prepare

Summary = dict[str, int | str]  # images of each split, and the digest


@flow(name="prepare", flow_run_name="prepare {source} at {settings.size} px: {data}")
@failing.in_sentences
def prepare_data(source: Pictures, data: str, settings: Preparation, place: Place = Place()) -> Summary:  # noqa: B008
    """Downsamples and shards pictures into WebDataset tars with a manifest.

    Args:
        source: Pictures: a folder with a folder for each class, tars, archives as downloaded, or photos: (built in).
        data: Folder for the shards, new or to be completed, relative to the project.
        settings: How pictures become shards.
        place: Where it runs. Changes no byte.
    """
    with cluster.session(place, watching.ray, watching.flow_run_url()):
        return prepare(source, Path(data), settings).summary()


@flow(name="extend", flow_run_name="add {source} to {data}")
@failing.in_sentences
def extend_data(source: Pictures, data: str, accept_missing: bool = False, place: Place = Place()) -> Summary:  # noqa: B008
    """Adds the pictures of a further source to prepared data, as new shards: those that are there stay as they are.

    Args:
        source: Pictures to add: a folder, tars or archives as downloaded. Settings are those of the data.
        data: Folder that was prepared, relative to the project.
        accept_missing: Add a source of known size (ImageNet, CIFAR-10) although some of its pictures cannot be read.
        place: Where it runs. Changes no byte.
    """
    with cluster.session(place, watching.ray, watching.flow_run_url()):
        return extend(source, Path(data), accept_missing).summary()

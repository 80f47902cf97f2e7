"""A model on the host of a worker: in place, copied from storage once per host, or sent by the driver.

Needs neither MLflow nor torch.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow.fs as pafs
from pyspark import SparkFiles

from pipelines.dataset.local_copies import copies_folder, open_copy
from pipelines.registry.verify import require_digest
from pipelines.storage import locate


class Place(NamedTuple):
    """The files of one model, as every worker of this application finds them."""

    kind: Literal["folder", "storage", "shipped"]
    """A local folder that every host sees; a folder on storage; an archive that Spark sends."""
    where: str
    """Local path; path or URI of the storage; name for SparkFiles."""
    digest: str | None
    """Of the model folder, as it was registered; a copy from storage is checked against it."""
    metric: str
    """The metric that decides about this model, a key of `pipelines.metrics.METRICS`."""
    reads_parts: bool = False
    """Whether the model reads the parts of documents."""
    task: str = ""
    """What it was trained for; empty = unknown."""
    adapters: tuple[str, ...] = ()
    """Names of the adapters of a bundle; empty = it is none."""


@contextmanager
def open_place(place: Place) -> Iterator[Path]:
    """The model folder on this host, locked against removal while the context lasts.

    The first worker on a host copies it from storage, the others wait for it. Raises ValueError if the files
    are not those that were registered, FileNotFoundError if they are not there.
    """
    if place.kind == "storage":
        assert place.digest is not None, "a copy is named by its digest"
        with open_copy(copies_folder("models"), place.digest, lambda target: _copy(place, target)) as folder:
            yield folder
    else:
        yield Path(place.where if place.kind == "folder" else SparkFiles.get(place.where))


def _copy(place: Place, target: Path) -> None:
    files, source = locate(place.where)
    try:
        for left in target.iterdir():  # by a worker that was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        pafs.copy_files(
            source, str(target), source_filesystem=files, destination_filesystem=pafs.LocalFileSystem()
        )
        require_digest(target, place.digest, what=place.where)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise

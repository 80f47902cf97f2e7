"""The files of a base that MLflow keeps, on every machine with ranks.

The driver brings them from MLflow to its own disk. Ranks know no MLflow, and often may not reach it: ranks on
the driver's machine read its copy in place, others one that the driver puts beside the trainings, on storage
that all machines share.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pyarrow.fs as pafs

from pipelines.connect import needs_shipping
from pipelines.dataset.artefacts import WEIGHTS, fetch_artefact, find_artefact, is_artefact
from pipelines.storage import Folder, locate

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from pipelines.finetune.models.architecture import Architecture
    from pipelines.finetune.training import Training

OBJECT_STORES = ("s3", "gcs", "abfs")
"""Arrow's names of their file systems."""
SHARED = "bases"
"""Folder beside those of the trainings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseFiles:
    """Where ranks find the files of a base."""

    local: str
    """Folder on the driver's machine."""
    shared: str
    """Path or URI of the copy on shared storage; it is there if a rank may need it."""
    sizes: dict[str, int]
    """Name -> bytes."""


def place_base(spark: "SparkSession", training: "Training") -> "Training":
    """The training with the files of its base and of its teacher where its ranks find them; itself if MLflow
    keeps neither. Downloads weights."""
    base = _place(spark, training, training.architecture.base)
    teacher = None if training.teacher is None else _place(spark, training, training.teacher.base)
    if base is None and teacher is None:
        return training
    return replace(training, base_files=base, teacher_files=teacher)


def _place(spark: "SparkSession", training: "Training", name: str | None) -> BaseFiles | None:
    if name is None or not is_artefact(name):
        return None
    artefact = find_artefact(name)
    folder = fetch_artefact(artefact, artefact.files)
    home = Folder(training.folder.rstrip("/").rpartition("/")[0])
    files = BaseFiles(
        local=str(folder),
        shared=(home / SHARED / folder.name).path,
        sizes={name: file.num_bytes for name, file in artefact.files.items()},
    )
    if needs_shipping(spark):
        share_files(files)
    return files


def share_files(files: BaseFiles) -> None:
    """Copy what is missing on shared storage."""
    target, root = locate(files.shared)
    target.create_dir(root, recursive=True)
    for name, num_bytes in files.sizes.items():
        there = target.get_file_info(f"{root}/{name}")
        if there.size == num_bytes:
            continue
        # Another driver may copy the same file: under its name it is complete. An object store shows no part
        # of a file, and cannot rename.
        is_whole = target.type_name in OBJECT_STORES
        part = f"{root}/{name}" if is_whole else f"{root}/.writing-{uuid4().hex}-{name}"
        pafs.copy_files(
            f"{files.local}/{name}",
            part,
            source_filesystem=pafs.LocalFileSystem(),
            destination_filesystem=target,
        )
        if not is_whole:
            target.move(part, f"{root}/{name}")


@contextmanager
def open_base(training: "Training", *, with_weights: bool) -> Iterator["Architecture"]:
    """The architecture with a base that this machine has, while the context lasts. Without weights, only the
    small files are copied from storage."""
    files, architecture = training.base_files, training.architecture
    if files is None:
        yield architecture
        return
    with _open_files(files, with_weights=with_weights) as place:
        yield replace(architecture, base=place)


@contextmanager
def open_teacher(training: "Training") -> Iterator[str]:
    """The name of the teacher, or the folder with its files if MLflow keeps it, while the context lasts."""
    assert training.teacher is not None, "only a training with a teacher opens it"
    assert training.teacher.base is not None, "make_training leaves out a teacher without a name"
    if training.teacher_files is None:
        yield training.teacher.base
        return
    with _open_files(training.teacher_files, with_weights=True) as place:
        yield place


@contextmanager
def _open_files(files: BaseFiles, *, with_weights: bool) -> Iterator[str]:
    """A folder of this machine with the files."""
    sizes = {name: size for name, size in files.sizes.items() if with_weights or not name.endswith(WEIGHTS)}
    source, root = locate(files.shared)
    places = [files.local, *([root] if isinstance(source, pafs.LocalFileSystem) else [])]
    for place in places:
        if _is_complete(Path(place), sizes):
            yield place
            return
    with tempfile.TemporaryDirectory(prefix="distributary-base-") as scratch:
        for name in sizes:
            pafs.copy_files(
                f"{root}/{name}",
                f"{scratch}/{name}",
                source_filesystem=source,
                destination_filesystem=pafs.LocalFileSystem(),
            )
        yield scratch


def _is_complete(folder: Path, sizes: dict[str, int]) -> bool:
    paths = {folder / name: size for name, size in sizes.items()}
    return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())

"""Find a place from which every worker of the cluster can take a model.

In this order: the folder in which the training wrote it, if workers see it or it lies on shared storage; the
files of the registry; and only if workers see neither, an archive that the driver sends. Weights pass through
the driver in the last case alone.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.fs as pafs
from pyspark.sql import SparkSession

from pipelines.connect import needs_shipping
from pipelines.finetune.models.architecture import (
    ADAPTERS,
    BUNDLE_FILE,
    SPEC_FILE,
    Use,
    parse_use,
    read_bundle,
)
from pipelines.registry.verify import require_digest
from pipelines.scoring.pull import Place
from pipelines.scoring.ship import ship_folder
from pipelines.spark import count_slots
from pipelines.storage import Folder, locate

if TYPE_CHECKING:
    from pipelines.registry.versions.resolve import LocatedModel


def place_model(spark: SparkSession, model: "LocatedModel") -> Place:
    """Where workers find the model, tried out. Calls MLflow only if the folder of the training is gone.

    Raises ValueError if the files are not those that were registered, or if the model cannot be used.
    """
    found = _find_trained(spark, model)
    if found is not None:
        return found
    from pipelines.registry.versions.resolve import fetch_model  # loads MLflow

    folder = fetch_model(model).folder
    file = folder / BUNDLE_FILE
    adapters = tuple(read_bundle(file.read_bytes())) if file.is_file() else ()
    specs = [folder / ADAPTERS / name / SPEC_FILE for name in adapters] or [folder / SPEC_FILE]
    uses = [parse_use(spec.read_bytes(), _describe(model)) for spec in specs]
    # What decides about the adapters of a bundle is not one metric, and they may have several tasks.
    use = Use("", any(each.reads_parts for each in uses), "") if adapters else uses[0]
    if _is_seen(spark, folder / ADAPTERS / adapters[0] if adapters else folder):
        return Place("folder", str(folder.resolve()), model.digest, *use, adapters)
    return Place("shipped", ship_folder(spark, folder), model.digest, *use, adapters)


def _find_trained(spark: SparkSession, model: "LocatedModel") -> Place | None:
    """The folder in which the training wrote the model; None if it is gone or workers do not see it."""
    if model.digest is None or model.trained_in is None:
        return None
    folder = Folder(model.trained_in)
    if not folder.exists(SPEC_FILE):
        return None
    use = parse_use(folder.read(SPEC_FILE), _describe(model))
    files, path = locate(model.trained_in)
    if not isinstance(files, pafs.LocalFileSystem):
        return Place("storage", model.trained_in, model.digest, *use)
    if not _is_seen(spark, Path(path)):
        return None
    require_digest(Path(path), model.digest, what=model.uri)
    return Place("folder", path, model.digest, *use)


def _describe(model: "LocatedModel") -> str:
    return f"version {model.version} of {model.name}"


def _is_seen(spark: SparkSession, folder: Path) -> bool:
    """Whether the workers see a folder of the driver: those of local[N] do, others if it is on a shared disk.

    On a cluster this is one short job of two tasks per slot.
    """
    if not needs_shipping(spark):
        return True
    num_tasks, file = 2 * count_slots(spark), str(folder / SPEC_FILE)

    def look(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield pa.record_batch({"seen": pa.array([Path(file).is_file()] * batch.num_rows, pa.bool_())})

    answers = spark.range(0, num_tasks, 1, num_tasks).mapInArrow(look, "seen BOOLEAN").collect()
    return all(answer.seen for answer in answers)

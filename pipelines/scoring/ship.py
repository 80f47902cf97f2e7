"""Send a model folder to every executor of the application, once per content."""

import atexit
import shutil
import tempfile
import zipfile
from pathlib import Path

from pyspark.sql import SparkSession

from pipelines.connect import is_connect
from pipelines.storage import folder_digest

_SHIPPED: set[tuple[str | None, str]] = set()
"""(application or Connect session, archive) that the executors can fetch. Spark refuses an equal name from
another path."""


def ship_folder(spark: SparkSession, model_folder: Path) -> str:
    """Send the folder to every executor, now and later. Returns the name by which a worker finds it
    (SparkFiles.get).

    As an archive, because addFile refuses local folders on a cluster. The name carries the digest of the
    content: Spark keys files by name and would go on using the first model under an equal name.
    """
    name = f"model-{folder_digest(model_folder)}"
    owner = spark.session_id if is_connect(spark) else spark.sparkContext.applicationId  # type: ignore[attr-defined]
    if (owner, name) in _SHIPPED:
        return name

    folder = tempfile.mkdtemp(prefix="distributary-")
    # Executors that start later fetch it too, so it lives as long as this driver.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    archive = Path(folder) / f"{name}.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        for file in sorted(path for path in Path(model_folder).rglob("*") if path.is_file()):
            packed.write(file, file.relative_to(model_folder).as_posix())
    if is_connect(spark):
        spark.addArtifacts(f"{archive}#{name}", archive=True)
    else:
        spark.sparkContext.addArchive(f"{archive}#{name}")
    _SHIPPED.add((owner, name))
    return name

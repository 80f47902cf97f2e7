"""Send a model folder to every executor of the application, once per content."""

import atexit
import shutil
import tempfile
import zipfile
from pathlib import Path

from pyspark import SparkContext

from pipelines.storage import folder_digest

_SHIPPED: set[tuple[str | None, str]] = set()
"""(application, archive) that the executors can fetch. Spark refuses an equal name from another path."""


def needs_shipping(context: SparkContext) -> bool:
    """Whether workers need a copy: those of local[N] see the driver's files, those of any cluster do not
    (local-cluster included)."""
    master = str(context.master)
    return not master.startswith("local") or master.startswith("local-cluster")


def ship_folder(context: SparkContext, model_folder: Path) -> str:
    """Send the folder to every executor, now and later. Returns the name by which a worker finds it
    (SparkFiles.get).

    As an archive, because addFile refuses local folders on a cluster. The name carries the digest of the
    content: Spark keys files by name and would go on using the first model under an equal name.
    """
    name = f"model-{folder_digest(model_folder)}"
    if (context.applicationId, name) in _SHIPPED:
        return name

    folder = tempfile.mkdtemp(prefix="distributary-")
    # Executors that start later fetch it too, so it lives as long as this driver.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    archive = Path(folder) / f"{name}.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        for file in sorted(path for path in Path(model_folder).rglob("*") if path.is_file()):
            packed.write(file, file.relative_to(model_folder).as_posix())
    context.addArchive(f"{archive}#{name}")
    _SHIPPED.add((context.applicationId, name))
    return name

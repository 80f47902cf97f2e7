"""What differs on Spark Connect: the session is a client, so this process has no JVM and no SparkContext.

Tables, scoring and ranks work there as everywhere; only what follows needs to know. No import of pyspark, so
that every layer can ask.
"""

import atexit
import hashlib
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

MODES = (
    "on Databricks choose compute with the access mode Dedicated (formerly single user), because Standard "
    "(formerly shared) and serverless compute run no barrier stages; elsewhere ask the administrator of the "
    "Connect server, or train with spark-submit"
)
"""What to do where a session refuses barrier stages."""

_SHIPPED: set[str] = set()
"""Sessions whose executors have our code."""


def is_connect(spark: "SparkSession") -> bool:
    """Whether the session is a client of a Spark Connect server."""
    return type(spark).__module__.startswith("pyspark.sql.connect")


def ship_code(spark: "SparkSession") -> None:
    """Give the executors of a Connect session the package `pipelines` of this process; once per session.

    Functions travel to executors by name, and a server knows nothing of the client's packages. An installed
    distributary of another version does no harm: what a session ships is found first. Libraries (torch,
    pyarrow) do not travel: the executors need their own.
    """
    if spark.session_id in _SHIPPED:  # type: ignore[attr-defined]
        return
    folder = Path(tempfile.mkdtemp(prefix="distributary-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    spark.addArtifacts(str(zip_code(folder)), pyfile=True)
    _SHIPPED.add(spark.session_id)  # type: ignore[attr-defined]


def zip_code(folder: Path) -> Path:
    """The package `pipelines` as a zip in `folder`. The name carries the digest of the content: a session
    refuses another file under a name that it has.
    """
    package = Path(__file__).parent
    files = sorted(
        file for file in package.rglob("*") if file.suffix in (".py", ".properties", ".yaml", ".typed")
    )
    content = hashlib.sha256()
    for file in files:
        content.update(f"{file.relative_to(package)}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    target = folder / f"distributary-{content.hexdigest()[:16]}.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in files:
            packed.write(file, file.relative_to(package.parent).as_posix())
    return target


def needs_shipping(spark: "SparkSession") -> bool:
    """Whether workers need a copy: those of local[N] see the driver's files, those of any cluster and of any
    Spark Connect server do not (local-cluster included)."""
    if is_connect(spark):
        return True
    master = str(spark.sparkContext.master)
    return not master.startswith("local") or master.startswith("local-cluster")

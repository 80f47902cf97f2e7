"""What a session of our own is given: the Python of its executors, Delta, and the jars of Delta and s3a."""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from pyspark import SparkContext
from pyspark.find_spark_home import _find_spark_home

from pipelines.catalog import DELTA_CATALOG, SESSION_CATALOG
from pipelines.machine import DELTA_JARS, S3_JARS, jars_folder
from pipelines.submit import conf_folder

EXTENSIONS, DELTA_EXTENSION = "spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension"
CATALOG = f"spark.sql.catalog.{SESSION_CATALOG}"
UNITY_CATALOG = "io.unitycatalog.spark.UCSingleCatalog"
"""Passes Delta tables on to Delta's own catalog."""
TASK_MEMORY = {
    # Rows go to Python by 10,000, which are 40 MB of ordinary documents, unless they have more bytes.
    "spark.sql.execution.arrow.maxBytesPerBatch": "8m"
}
"""Bounds of what a task keeps in memory, so that it does not grow with the table."""
JAVA_OPTIONS = "spark.driver.extraJavaOptions"
JAVA_VARIABLES = ("SPARK_SUBMIT_OPTS", "JDK_JAVA_OPTIONS", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS")
FEW_SLOTS = 8
"""With more, one thread that collects garbage would hold up the tasks."""
FAST_LISTING = "delta.enableFastS3AListFrom"
PACKED_PYTHON = "./environment/bin/python"
"""The Python of a pack (`make pack`) on an executor."""


def choose_python(settled: Mapping[str, str]) -> str:
    """The Python of the executors: spark.pyspark.python, else PYSPARK_PYTHON, else that of an archive under
    the name `environment`, else the driver's.

    Spark unpacks `--archives pack.tar.gz#environment` into the folder `environment` where executors start;
    its documentation uses that name too. The driver's path is right on machines that have the same
    environment at the same place. A local master has no executors and unpacks nothing.
    """
    chosen = settled.get("spark.pyspark.python") or os.environ.get("PYSPARK_PYTHON")
    if chosen:
        return chosen
    archives = f"{settled.get('spark.archives', '')},{settled.get('spark.yarn.dist.archives', '')}".split(",")
    master = settled["spark.master"]
    is_local = master.startswith("local") and not master.startswith("local-cluster")
    if not is_local and any(archive.strip().endswith("#environment") for archive in archives):
        return PACKED_PYTHON
    return sys.executable


def choose_java_options(settled: Mapping[str, str]) -> str:
    """Options for the JVM of a local master of few slots, which is driver and executor at once; empty for
    other masters, and if the user has options of Java anywhere: two collectors are an error of Java.

    The second compiler and threads that collect garbage beside the tasks pay off after an hour, not after a
    minute: Python and Arrow do most of the work on rows. docs/decisions.md has the figures.
    """
    local = re.fullmatch(r"local(?:\[(\d+|\*)(?:,\d+)?\])?", settled["spark.master"].replace(" ", ""))
    is_given = "spark.driver.defaultJavaOptions" in settled or (conf_folder() / "java-opts").exists()
    if local is None or is_given or any(os.environ.get(name) for name in JAVA_VARIABLES):
        return ""
    slots = os.cpu_count() or 1 if local[1] == "*" else int(local[1] or 1)
    return "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC" if slots <= FEW_SLOTS else ""


def refuse_settings(settled: Mapping[str, str]) -> None:
    """Raises ValueError for settings that cannot work."""
    refuse_fast_listing(settled)
    refuse_cluster_mode(settled)


def refuse_cluster_mode(settled: Mapping[str, str]) -> None:
    """Raises ValueError if a driver that runs here is to run on the cluster.

    Spark itself says only that its gateway ended. On YARN and Kubernetes, spark-submit has moved the driver
    by the time this runs; Spark's standalone master takes no Python drivers (4.2.0).
    """
    mode = settled.get("spark.submit.deployMode", "client")
    if mode != "client" and "PYSPARK_GATEWAY_PORT" not in os.environ:
        raise ValueError(
            f"spark.submit.deployMode is {mode}, but this process is already the driver; remove the setting, "
            "or start the job with spark-submit --deploy-mode cluster, which YARN and Kubernetes support for "
            "Python (Spark standalone does not)"
        )


def refuse_fast_listing(settled: Mapping[str, str]) -> None:
    """Raises ValueError for a setting of Delta that breaks every table on S3 with Spark's Hadoop. Databricks
    brings a Hadoop of its own."""
    if "DATABRICKS_RUNTIME_VERSION" in os.environ:
        return
    for name in (f"spark.hadoop.{FAST_LISTING}", FAST_LISTING):
        if settled.get(name, "").strip().lower() == "true":
            raise ValueError(
                f"{name} must not be true: Delta 4.4.0 then calls a method of S3A that has another type in "
                "Hadoop 3.5.0 (Listing.createFileStatusListingIterator), and every table on S3 fails with "
                "NoSuchMethodError; remove the setting"
            )


def add_delta(settled: Mapping[str, str]) -> dict[str, str]:
    """Delta's extension beside the user's extensions, and its catalog."""
    catalog = settled.get(CATALOG, DELTA_CATALOG)
    if catalog not in (DELTA_CATALOG, UNITY_CATALOG):
        raise ValueError(
            f"{CATALOG} must be {DELTA_CATALOG}, because the tables are Delta tables, got {catalog}; give "
            "that catalog another name, such as spark.sql.catalog.other"
        )
    extensions = [name.strip() for name in settled.get(EXTENSIONS, "").split(",") if name.strip()]
    return {EXTENSIONS: ",".join(dict.fromkeys([*extensions, DELTA_EXTENSION])), CATALOG: catalog}


def brings_delta(given: Mapping[str, str]) -> bool:
    places = (
        given.get("spark.jars", ""),
        given.get("spark.jars.packages", ""),
        given.get("spark.driver.extraClassPath", ""),
    )
    if "DATABRICKS_RUNTIME_VERSION" in os.environ or any("delta-spark" in place for place in places):
        return True
    # The installation of Spark has it. With a second copy, classes would be loaded from both.
    return _ships("delta-spark_")


def brings_s3(given: Mapping[str, str]) -> bool:
    """Whether Spark has Hadoop's s3a client already, or gets it from the user."""
    places = ("spark.jars", "spark.jars.packages", "spark.driver.extraClassPath")
    return (
        "DATABRICKS_RUNTIME_VERSION" in os.environ
        or any("hadoop-aws" in given.get(place, "") for place in places)
        or _ships("hadoop-aws-")
    )


def _ships(jar: str) -> bool:
    """Whether Spark itself has a jar whose name starts so.

    A JVM that started this process is asked: a driver on YARN has no folder of Spark, only the class path.
    """
    if "PYSPARK_GATEWAY_PORT" in os.environ:
        SparkContext._ensure_initialized()
        assert SparkContext._jvm is not None, "_ensure_initialized connected to it"
        places = SparkContext._jvm.java.lang.System.getProperty("java.class.path").split(os.pathsep)
        return any(Path(place).name.startswith(jar) for place in places)
    return any(Path(_find_spark_home(), "jars").glob(f"{jar}*.jar"))


def find_s3_jars() -> list[str]:
    """The jars of s3a, if they were downloaded: only those who use s3:// need them."""
    jars = [jars_folder() / name for name in S3_JARS]
    return [str(jar) for jar in jars] if all(jar.is_file() for jar in jars) else []


def find_delta_jars() -> list[str]:
    jars = [jars_folder() / name for name in DELTA_JARS]
    missing = [jar.name for jar in jars if not jar.is_file()]
    if missing:
        raise FileNotFoundError(
            f"Delta's jars {', '.join(missing)} are not in {jars_folder()}; run: make setup "
            "(or give your own with --packages io.delta:delta-spark_4.2_2.13:4.4.0)"
        )
    return [str(jar) for jar in jars]

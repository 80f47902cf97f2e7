"""The only place that starts Spark: Delta from local jars, the driver's Python for the workers.

Everything that the user set stays (`submit.py` reads it); only what is not set gets a value, and Delta's
extension is added to the user's extensions. A session that already runs is used as it is.
"""

import atexit
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pyspark import SparkConf, SparkContext
from pyspark.sql import DataFrame, SparkSession
from pyspark.storagelevel import StorageLevel

from pipelines.machine import (
    DELTA_JARS,
    SUPPORTED_JAVA,
    cache_folder,
    feature_version,
    find_java,
    find_other_java_home,
    jars_folder,
)
from pipelines.submit import conf_folder, read_given_conf

EXTENSIONS, DELTA_EXTENSION = "spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension"
CATALOG, DELTA_CATALOG = "spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog"
UNITY_CATALOG = "io.unitycatalog.spark.UCSingleCatalog"
"""Passes Delta tables on to Delta's own catalog."""
LOG_CONF = Path(__file__).with_name("log4j2.properties")
"""Errors only: Spark's other messages would hide those of the jobs."""
DEFAULT_MASTER = "local[2,4]"
"""Two slots; a failed task is tried four times. With `local[2]` a barrier stage would never be run again."""

NO_MASTER = (
    "spark.master is empty, as --env cluster has it, and nothing else names a Spark master; start the stage "
    "with spark-submit --master URL, or set spark.master=URL as a key or in spark-defaults.conf "
    "(spark://HOST:7077, yarn, k8s://...)"
)

_start = threading.RLock()
"""One thread starts the session; the others wait."""


def session(app_name: str, conf: Mapping[str, str] | None = None) -> SparkSession:
    """The running session, or a new one with `conf` and our defaults for everything that the user did not
    set.

    Raises FileNotFoundError if Delta is neither configured by the user nor in the jars folder, RuntimeError
    if the Java found cannot run Spark, ValueError if there is no master or if another catalog has the name of
    Delta's.
    """
    with _start:
        return _find_session() or _start_session(app_name, conf or {})


def start_ahead(app_name: str, conf: Mapping[str, str] | None = None) -> None:
    """Start the session in the background, so that the JVM starts while Python imports. `session` then waits
    for it.

    Call it only if there is work to do. It raises nothing: if the start fails, `session` tries again and
    raises the error.
    """

    def start() -> None:
        with suppress(Exception):
            session(app_name, conf)

    threading.Thread(target=start, name="start Spark", daemon=True).start()


def _start_session(app_name: str, conf: Mapping[str, str]) -> SparkSession:
    _check_java()
    given = read_given_conf()
    wanted = {
        "spark.app.name": app_name,
        "spark.master": DEFAULT_MASTER,
        "spark.pyspark.python": sys.executable,
        "spark.pyspark.driver.python": sys.executable,
        "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={LOG_CONF.as_uri()}",
        "spark.sql.warehouse.dir": str(cache_folder() / "spark-warehouse"),
        # The true default gives SQL's Python workers another environment than those of RDDs, so Spark starts
        # new ones. With false, scoring runs in the workers of the training ranks, where torch and
        # transformers are already imported.
        "spark.sql.execution.pyspark.udf.simplifiedTraceback.enabled": "false",
        **conf,
    }
    if given.get("spark.master", wanted["spark.master"]).startswith("local"):
        # One machine: no port is open to other machines.
        wanted |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    both = {**wanted, **given}
    if not both["spark.master"]:
        raise ValueError(NO_MASTER)
    added = _with_delta(both)
    jars = [] if _brings_delta(both) else _delta_jars()
    if jars:
        added["spark.jars"] = ",".join(filter(None, [both.get("spark.jars", ""), *jars]))
    not_given = {name: value for name, value in wanted.items() if name not in given}
    chosen = SparkConf(loadDefaults=False).setAll([*{**not_given, **added}.items()])
    os.environ.setdefault("PYSPARK_PYTHON", given.get("spark.pyspark.python", sys.executable))
    _add_to_jvm(jars, chosen)
    started = SparkSession.builder.config(conf=chosen).getOrCreate()
    # If only the JVM's end stopped it, a cluster would see failed executors instead of a finished
    # application.
    atexit.register(started.stop)
    return started


def require_master() -> None:
    """Raises ValueError if no session runs and no launcher, properties file or environment variable names a
    master."""
    if _find_session() is not None or "DATABRICKS_RUNTIME_VERSION" in os.environ:
        return
    if not read_given_conf().get("spark.master"):
        raise ValueError(NO_MASTER)


def count_slots(spark: SparkSession) -> int:
    """Tasks that run at once. Spark Connect does not say it: then what its configuration says, else 2."""
    try:
        return max(spark.sparkContext.defaultParallelism, 1)
    except Exception:
        return max(int(spark.conf.get("spark.default.parallelism", "2") or 2), 1)


def count_tasks(spark: SparkSession) -> tuple[int, int, int] | None:
    """(stage, tasks done, all tasks) of the running stage with the most tasks; None if none runs, and over
    Spark Connect."""
    try:
        tracker = spark.sparkContext.statusTracker()
        stages = [tracker.getStageInfo(number) for number in tracker.getActiveStageIds()]
    except Exception:
        return None
    largest = max(filter(None, stages), key=lambda stage: stage.numTasks, default=None)
    return largest and (largest.stageId, largest.numCompletedTasks, largest.numTasks)


@contextmanager
def persisted(rows: DataFrame) -> Iterator[DataFrame]:
    """The rows, cached for as long as the context lasts. Spark computes lost ones again: see
    `digest.hold_rows` for rows that are digested."""
    rows.persist(StorageLevel.MEMORY_AND_DISK)
    try:
        yield rows
    finally:
        rows.unpersist()


def _find_session() -> SparkSession | None:
    """The session of this thread, or else of the process: a session that is active in one thread is not
    active in others."""
    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    started = SparkSession._instantiatedSession
    return started if started is not None and started._sc._jsc is not None else None


def _check_java() -> None:
    """Raises RuntimeError if a JVM must be started and Java is too old. A Java newer than those tested is
    allowed."""
    starts = SparkContext._gateway is None and not {
        "PYSPARK_GATEWAY_PORT",
        "DATABRICKS_RUNTIME_VERSION",
    } & set(os.environ)
    if not starts or (conf_folder() / "spark-env.sh").is_file():  # it may choose another Java
        return
    java = find_java()
    if java.problem and feature_version(java.version) < min(SUPPORTED_JAVA):
        home, wanted = find_other_java_home(), " or ".join(map(str, SUPPORTED_JAVA))
        remedy = f"export JAVA_HOME={home}" if home else "make system"
        raise RuntimeError(f"{java.problem}; Spark needs Java {wanted}; run: {remedy}")


def _add_to_jvm(jars: list[str], conf: SparkConf) -> None:
    """Start the JVM if there is none, and add the jars to its class loader.

    Executors get the jars by `spark.jars`. The driver does not: spark-submit may have started the JVM
    already, or the user's --jars replaces our `spark.jars`.
    """
    SparkContext._ensure_initialized(conf=conf)
    jvm = SparkContext._jvm
    assert jvm is not None, "_ensure_initialized started it"
    loader = jvm.java.lang.Thread.currentThread().getContextClassLoader()
    for jar in jars:
        loader.addURL(jvm.java.io.File(jar).toURI().toURL())


def _with_delta(settled: Mapping[str, str]) -> dict[str, str]:
    """Delta's extension beside the user's extensions, and its catalog."""
    catalog = settled.get(CATALOG, DELTA_CATALOG)
    if catalog not in (DELTA_CATALOG, UNITY_CATALOG):
        raise ValueError(
            f"{CATALOG} must be {DELTA_CATALOG}, because the tables are Delta tables, got {catalog}; give "
            "that catalog another name, such as spark.sql.catalog.other"
        )
    extensions = [name.strip() for name in settled.get(EXTENSIONS, "").split(",") if name.strip()]
    return {EXTENSIONS: ",".join(dict.fromkeys([*extensions, DELTA_EXTENSION])), CATALOG: catalog}


def _brings_delta(given: Mapping[str, str]) -> bool:
    places = (
        given.get("spark.jars", ""),
        given.get("spark.jars.packages", ""),
        given.get("spark.driver.extraClassPath", ""),
    )
    return "DATABRICKS_RUNTIME_VERSION" in os.environ or any("delta-spark" in place for place in places)


def _delta_jars() -> list[str]:
    jars = [jars_folder() / name for name in DELTA_JARS]
    missing = [jar.name for jar in jars if not jar.is_file()]
    if missing:
        raise FileNotFoundError(
            f"Delta's jars {', '.join(missing)} are not in {jars_folder()}; run: make setup "
            "(or give your own with --packages io.delta:delta-spark_4.2_2.13:4.4.0)"
        )
    return [str(jar) for jar in jars]

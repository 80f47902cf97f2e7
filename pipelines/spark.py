"""The only place that starts Spark: Delta from local jars, the driver's Python for the workers.

Everything that the user set stays (`submit.py` reads it); only what is not set gets a value, and Delta's
extension is added to the user's extensions. A session that already runs is used as it is.
"""

import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import cast

from pyspark import SparkConf
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession, is_remote
from pyspark.sql import functions as F
from pyspark.storagelevel import StorageLevel

from pipelines.connect import is_connect, ship_code
from pipelines.jvm import add_to_jvm, check_java
from pipelines.machine import cache_folder
from pipelines.session_conf import (
    FAST_LISTING,
    JAVA_OPTIONS,
    TASK_MEMORY,
    add_delta,
    brings_delta,
    brings_s3,
    choose_java_options,
    choose_python,
    find_delta_jars,
    find_s3_jars,
    refuse_fast_listing,
    refuse_settings,
)
from pipelines.stores import S3, Stores, current, secret_conf, spark_conf
from pipelines.submit import read_given_conf

logger = logging.getLogger(__name__)

LOG_CONF = Path(__file__).with_name("log4j2.properties")
"""Errors only: Spark's other messages would hide those of the jobs."""
DEFAULT_MASTER = "local[2,4]"
"""Two slots; a failed task is tried four times. With `local[2]` a barrier stage would never be run again."""

SHUFFLE_PARTITIONS = "spark.sql.shuffle.partitions"
NO_MASTER = (
    "spark.master is empty, as --env cluster has it, and nothing else names a Spark master; start the stage "
    "with spark-submit --master URL, or set spark.master=URL as a key or in spark-defaults.conf "
    "(spark://HOST:7077, yarn, k8s://...)"
)

COMPARED = ("fs.s3a.endpoint", "fs.s3a.endpoint.region", "fs.s3a.path.style.access")
"""Settings of Hadoop that say where a store is: Spark and the other clients must agree."""

_applied: tuple[str, Stores] | None = None
"""Application and settings of the last session that `session` gave out."""
_start = threading.RLock()  # One thread starts the session; the others wait.


def session(app_name: str, conf: Mapping[str, str] | None = None) -> SparkSession:
    """The running session, or a new one with `conf` and our defaults for everything that the user did not
    set.

    A server of Spark Connect keeps its own configuration: `conf` and the defaults are for sessions that we
    start.

    Raises FileNotFoundError if Delta is neither configured by the user nor in the jars folder, RuntimeError
    if the Java found cannot run Spark, ValueError if there is no master, if another catalog has the name of
    Delta's, or if Spark's settings reach storage in another way than section `storage`.
    """
    with _start:
        found = _find_session()
        if found is None:
            remote = find_remote(conf or {})
            found = _connect(remote) if remote else _start_session(app_name, conf or {})
        if is_connect(found):
            ship_code(found)
        else:
            _apply_stores(found)
        return found


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
    check_java()
    given = read_given_conf()
    before = {"spark.master": DEFAULT_MASTER, **conf, **given}
    python, java = choose_python(before), choose_java_options(before)
    wanted = {
        "spark.app.name": app_name,
        "spark.master": DEFAULT_MASTER,
        "spark.pyspark.python": python,
        "spark.pyspark.driver.python": sys.executable,
        JAVA_OPTIONS: f"-Dlog4j2.configurationFile={LOG_CONF.as_uri()} {java}".rstrip(),
        "spark.sql.warehouse.dir": (cache_folder() / "spark-warehouse").as_uri(),
        **TASK_MEMORY,
        **spark_conf(current()),
        **conf,
    }
    if given.get("spark.master", wanted["spark.master"]).startswith("local"):
        # One machine: no port is open to other machines.
        wanted |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    both = {**wanted, **given}
    if not both["spark.master"]:
        raise ValueError(NO_MASTER)
    refuse_settings(both)
    added = add_delta(both)
    jars = [] if brings_delta(both) else find_delta_jars()
    s3_jars = [] if brings_s3(both) else find_s3_jars()
    # The classes of local[N] are the driver's. Executors get a copy: 690 MB for S3, so only if S3 is in use.
    uses_s3 = current().s3 != S3() and not both["spark.master"].startswith("local")
    shipped = jars + (s3_jars if uses_s3 else [])
    jars += s3_jars
    if shipped:
        added["spark.jars"] = ",".join(filter(None, [both.get("spark.jars", ""), *shipped]))
    not_given = {name: value for name, value in wanted.items() if name not in given}
    chosen = SparkConf(loadDefaults=False).setAll([*{**not_given, **added}.items()])
    os.environ["PYSPARK_PYTHON"] = python  # pyspark reads the variable, and the setting only in spark-submit
    add_to_jvm(jars, chosen)
    started = SparkSession.builder.config(conf=chosen).getOrCreate()
    # If only the JVM's end stopped it, a cluster would see failed executors instead of a finished
    # application.
    atexit.register(started.stop)
    return started


def _apply_stores(session: SparkSession) -> None:
    """Tell the session's Hadoop clients how to reach storage, keys included.

    Not as Spark's settings: those stand on the JVM's command line and in the event log. Raises ValueError if
    the session's settings reach storage in another way.
    """
    global _applied
    stores = current()
    context = getattr(session, "_sc", None)  # a session of Spark Connect has none: its server has its own
    if context is None or _applied == (context.applicationId, stores):
        return
    defaults = spark_conf(Stores())
    wanted = {name: value for name, value in spark_conf(stores).items() if defaults.get(name) != value}
    hadoop = context._jsc.hadoopConfiguration()
    if stores.hdfs.conf_dir:  # a JVM that runs already does not see our environment
        for name in ("core-site.xml", "hdfs-site.xml"):
            site = Path(stores.hdfs.conf_dir) / name
            if site.is_file():
                hadoop.addResource(context._jvm.org.apache.hadoop.fs.Path(site.as_uri()))
    # Of a session that others started: Delta reads both.
    for given in (hadoop.get(FAST_LISTING), session.conf.get(FAST_LISTING, None)):
        refuse_fast_listing({FAST_LISTING: given or ""})
    for spark_name, value in wanted.items():
        name = spark_name.removeprefix("spark.hadoop.")
        given = context.getConf().get(spark_name, None)
        if name in COMPARED and given not in (None, value):
            raise ValueError(
                f"{spark_name} is {given}, but section storage of the configuration says {value}; the tables "
                "and the files beside them would lie in two stores; remove one of the two"
            )
        if given is None:
            hadoop.set(name, value)
    for name, value in secret_conf(stores).items():
        hadoop.set(name, value)
    _applied = (context.applicationId, stores)


def find_remote(conf: Mapping[str, str]) -> str:
    """Address of the Spark Connect server to use: spark.remote as the launcher or `conf` sets it, or the
    variable SPARK_REMOTE; empty = classic Spark.

    Raises ValueError if it is no address of a server.
    """
    # spark-submit that has started a JVM has settled it: this process is a classic driver.
    remote = (
        "" if "PYSPARK_GATEWAY_PORT" in os.environ else {**conf, **read_given_conf()}.get("spark.remote", "")
    )
    if remote and not remote.startswith("sc://"):
        raise ValueError(
            f"spark.remote must be the address of a Spark Connect server (sc://HOST:15002), got {remote}; "
            "for Spark in this process set spark.master instead"
        )
    return remote


def _connect(remote: str) -> SparkSession:
    """A session of a Spark Connect server, which needs Delta there. Raises ImportError with the remedy."""
    try:
        started = SparkSession.builder.remote(remote).getOrCreate()
    except ImportError as error:
        raise ImportError(
            f"Spark Connect needs packages that are missing ({error}); pip install 'distributary[connect]'"
        ) from error
    atexit.register(started.stop)
    return started


def count_slots(spark: SparkSession) -> int:
    """Tasks that the session runs at once by default; over Spark Connect measured by a job of a second."""
    if not is_connect(spark):
        return int(spark.sparkContext.defaultParallelism)
    # `range` without a number of partitions takes the server's default parallelism.
    return int(spark.range(1 << 16).select(F.spark_partition_id()).distinct().count())


@contextmanager
def shuffling(spark: SparkSession, num_partitions: int) -> Iterator[None]:
    """Shuffles that are planned while the context lasts have at least `num_partitions`; more if the session
    has more. Spark joins small partitions again by their sizes, but it divides no large ones. A session that
    chooses the number itself (Databricks: auto) is left as it is."""
    before = spark.conf.get(SHUFFLE_PARTITIONS, "") or ""
    if not before.isdigit() or int(before) >= num_partitions:
        yield
        return
    spark.conf.set(SHUFFLE_PARTITIONS, str(num_partitions))
    with _undo(lambda: spark.conf.set(SHUFFLE_PARTITIONS, before)):
        yield


@contextmanager
def _undo(change_back: Callable[[], object]) -> Iterator[None]:
    """Call `change_back` at the end. If the JVM died, that fails too, and must not replace the error."""
    try:
        yield
    except BaseException:
        with suppress(Exception):
            change_back()
        raise
    change_back()


def require_master() -> None:
    """Raises ValueError if no session runs and no launcher, properties file or environment variable names a
    master."""
    if _find_session() is not None or "DATABRICKS_RUNTIME_VERSION" in os.environ:
        return
    if not (find_remote({}) or read_given_conf().get("spark.master")):
        raise ValueError(NO_MASTER)


def count_tasks(spark: SparkSession) -> tuple[int, int, int] | None:
    """(stage, tasks done, tasks) of the largest running stage; None if none runs, and over Spark Connect."""
    try:
        tracker = spark.sparkContext.statusTracker()
        stages = [tracker.getStageInfo(number) for number in tracker.getActiveStageIds()]
    except Exception:
        return None
    largest = max(filter(None, stages), key=lambda stage: stage.numTasks, default=None)
    return largest and (largest.stageId, largest.numCompletedTasks, largest.numTasks)


@contextmanager
def persisted(rows: DataFrame) -> Iterator[DataFrame]:
    """The rows, cached on the disks of executors while the context lasts: executors of one size serve tables
    of any size. Spark computes lost ones again: see `held.hold_rows` for rows that are digested. Sessions of
    Spark Connect that cannot cache (Databricks serverless) compute the rows at each use.
    """
    with _undo(rows.unpersist) if _persist(rows) else nullcontext():
        yield rows


def _persist(rows: DataFrame) -> bool:
    try:
        rows.persist(StorageLevel.DISK_ONLY)
    except PySparkException as refused:
        if not is_connect(rows.sparkSession):
            raise
        first = str(refused).strip().partition("\n")[0]
        logger.warning("this session cannot cache rows, so they are computed at each use (%s)", first)
        return False
    return True


def _find_session() -> SparkSession | None:
    """The session of this thread, or else of the process: other threads may not see an active session."""
    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    if is_remote():
        from pyspark.sql.connect.session import SparkSession as ConnectSession  # needs the extra `connect`

        return cast("SparkSession | None", ConnectSession._get_default_session())
    started = SparkSession._instantiatedSession
    return started if started is not None and started._sc._jsc is not None else None

"""The only SparkSession: Delta ready from local jars, workers on the driver's Python, nothing of the user's overridden.

Whatever spark-submit, a notebook, Databricks, PYSPARK_SUBMIT_ARGS, properties files or the environment set stands; only what they
left open is filled, and Delta's extension is added to theirs. A running session is used as it is. What spark-env.sh exports is
not seen: say it in spark-defaults.conf.
"""

import atexit
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pyspark import SparkConf, SparkContext
from pyspark.find_spark_home import _find_spark_home
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

EXTENSIONS, DELTA_EXTENSION = "spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension"
CATALOG, DELTA_CATALOG = "spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog"
UNITY_CATALOG = "io.unitycatalog.spark.UCSingleCatalog"
"""Hands Delta tables on to Delta's own."""
LOG_CONF = Path(__file__).with_name("log4j2.properties")
"""Errors only: what Spark says on the way hides what a job says."""
DEFAULT_MASTER = "local[2,4]"
"""Two slots, and a failed task is tried four times: `local[2]` would never run a barrier stage again."""

NO_MASTER = (
    "spark.master is empty, as --env cluster has it, and nothing else names a Spark master; start the stage with spark-submit "
    "--master URL, or set spark.master=URL as a key or in spark-defaults.conf (spark://HOST:7077, yarn, k8s://...)"
)

# What spark-submit reads where neither a flag nor a properties file says it.
_VARIABLES = {
    "MASTER": "spark.master",
    "SPARK_DRIVER_MEMORY": "spark.driver.memory",
    "SPARK_EXECUTOR_MEMORY": "spark.executor.memory",
    "SPARK_EXECUTOR_CORES": "spark.executor.cores",
}
_FLAGS = {
    "--master": "spark.master",
    "--name": "spark.app.name",
    "--deploy-mode": "spark.submit.deployMode",
    "--jars": "spark.jars",
    "--packages": "spark.jars.packages",
    "--exclude-packages": "spark.jars.excludes",
    "--repositories": "spark.jars.repositories",
    "--files": "spark.files",
    "--archives": "spark.archives",
    "--py-files": "spark.submit.pyFiles",
    "--queue": "spark.yarn.queue",
    "--driver-memory": "spark.driver.memory",
    "--driver-cores": "spark.driver.cores",
    "--driver-class-path": "spark.driver.extraClassPath",
    "--driver-java-options": "spark.driver.extraJavaOptions",
    "--driver-library-path": "spark.driver.extraLibraryPath",
    "--executor-memory": "spark.executor.memory",
    "--executor-cores": "spark.executor.cores",
    "--num-executors": "spark.executor.instances",
    "--total-executor-cores": "spark.cores.max",
}


def session(app_name: str, conf: Mapping[str, str] | None = None) -> SparkSession:
    """The running session, or a new one in which `conf` and the defaults fill what nobody set.

    Raises FileNotFoundError if Delta is neither configured by the user nor in the jars folder, RuntimeError if the Java found
    cannot run Spark, ValueError if another catalog stands in the place of Delta's.
    """
    running = _running()
    if running is not None:
        return running
    _check_java()
    given = _given_conf()
    wanted = {
        "spark.app.name": app_name,
        "spark.master": DEFAULT_MASTER,
        "spark.pyspark.python": sys.executable,
        "spark.pyspark.driver.python": sys.executable,
        "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={LOG_CONF.as_uri()}",
        "spark.sql.warehouse.dir": str(cache_folder() / "spark-warehouse"),
        **(conf or {}),
    }
    if given.get("spark.master", wanted["spark.master"]).startswith("local"):
        # One machine: nothing listens beyond it.
        wanted |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    both = {**wanted, **given}
    if not both["spark.master"]:
        raise ValueError(NO_MASTER)
    added = _with_delta(both)
    jars = [] if _brings_delta(both) else _delta_jars()
    if jars:
        added["spark.jars"] = ",".join(filter(None, [both.get("spark.jars", ""), *jars]))
    left_open = {name: value for name, value in wanted.items() if name not in given}
    chosen = SparkConf(loadDefaults=False).setAll([*{**left_open, **added}.items()])
    os.environ.setdefault("PYSPARK_PYTHON", given.get("spark.pyspark.python", sys.executable))
    _add_to_jvm(jars, chosen)
    started = SparkSession.builder.config(conf=chosen).getOrCreate()
    # Left to the JVM's end, a cluster sees executors that fail, not an application that is done.
    atexit.register(started.stop)
    return started


def require_master() -> None:
    """Raises ValueError if no session runs and neither the launcher, a properties file nor the environment names a master."""
    if _running() is None and "DATABRICKS_RUNTIME_VERSION" not in os.environ:
        if not _given_conf().get("spark.master"):
            raise ValueError(NO_MASTER)


@contextmanager
def persisted(rows: DataFrame) -> Iterator[DataFrame]:
    """The rows worked out once and kept as long as the context lasts; what the user's session keeps stays."""
    rows.persist(StorageLevel.MEMORY_AND_DISK)
    try:
        yield rows
    finally:
        rows.unpersist()


def _running() -> SparkSession | None:
    """The session of this thread, else of the process: the JVM's threads do not see each other's."""
    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    started = SparkSession._instantiatedSession
    return started if started is not None and started._sc._jsc is not None else None


def _check_java() -> None:
    """Raises RuntimeError if a JVM is to be started and no Java can run Spark; one that is newer than tested may try."""
    starts = SparkContext._gateway is None and not {
        "PYSPARK_GATEWAY_PORT",
        "DATABRICKS_RUNTIME_VERSION",
    } & set(os.environ)
    if not starts or (_conf_folder() / "spark-env.sh").is_file():  # which may choose another Java
        return
    java = find_java()
    if java.problem and feature_version(java.version) < min(SUPPORTED_JAVA):
        home, wanted = find_other_java_home(), " or ".join(map(str, SUPPORTED_JAVA))
        remedy = f"export JAVA_HOME={home}" if home else "make system"
        raise RuntimeError(f"{java.problem}; Spark needs Java {wanted}; run: {remedy}")


def _conf_folder() -> Path:
    return Path(os.environ.get("SPARK_CONF_DIR") or Path(_find_spark_home()) / "conf")


def _given_conf() -> dict[str, str]:
    """What the user's launcher already set, read without starting a second JVM. In the order of spark-submit: flags, --conf,
    properties files (the default one if no other is named), environment."""
    if "PYSPARK_GATEWAY_PORT" in os.environ:  # spark-submit started this process
        SparkContext._ensure_initialized()
        return dict(SparkConf().getAll())
    flags = list(_submitted(os.environ.get("PYSPARK_SUBMIT_ARGS", "")))
    given = {_VARIABLES[name]: value for name, value in os.environ.items() if name in _VARIABLES and value}
    named = [value for flag, value in flags if flag == "--properties-file"][-1:]
    if not named or any(flag == "--load-spark-defaults" for flag, _ in flags):
        given |= _properties(_conf_folder() / "spark-defaults.conf", required=False)
    for file in [*named, *[value for flag, value in flags if flag == "--extra-properties-file"]]:
        given |= _properties(Path(file))
    for flag, value in flags:
        if flag in ("--conf", "-c"):
            name, equals, text = value.partition("=")
            if not equals:
                raise ValueError(f"PYSPARK_SUBMIT_ARGS: {flag} takes name=value, got {value}")
            given[name] = text
    return given | {_FLAGS[flag]: value for flag, value in flags if flag in _FLAGS}


def _submitted(arguments: str) -> Iterator[tuple[str, str]]:
    """Flags with their values; --flag=value is --flag value."""
    words = iter(shlex.split(arguments))
    for word in words:
        flag, equals, value = word.partition("=")
        if flag == "--load-spark-defaults":
            yield flag, ""
        elif flag in _FLAGS or flag in ("--conf", "-c", "--properties-file", "--extra-properties-file"):
            yield flag, value if equals else next(words, "")


def _properties(file: Path, *, required: bool = True) -> dict[str, str]:
    """A properties file as Java and Spark read it: a name ends at '=', ':' or white space, a line goes on after a backslash."""
    if not file.is_file():
        if required:
            raise FileNotFoundError(
                f"no properties file at {file}; correct --properties-file in PYSPARK_SUBMIT_ARGS"
            )
        return {}
    given = {}
    text = re.sub(r"(?m)^\s*[#!].*$", "", file.read_text(encoding="utf-8"))
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        found = re.fullmatch(r"\s*(spark\.(?:\\.|[^\\\s=:])*)\s*[=:]?\s*(.*?)\s*", line)
        if found:
            name, value = (re.sub(r"\\(.)", r"\1", part) for part in found.groups())
            given[name] = value
    return given


def _add_to_jvm(jars: list[str], conf: SparkConf) -> None:
    """Start the JVM unless it runs, and make the jars known to it; executors get them by `spark.jars`.

    The driver would not: spark-submit started the JVM before us, or the user's --jars goes before our `spark.jars`.
    """
    SparkContext._ensure_initialized(conf=conf)
    jvm = SparkContext._jvm
    assert jvm is not None, "_ensure_initialized started it"
    loader = jvm.java.lang.Thread.currentThread().getContextClassLoader()
    for jar in jars:
        loader.addURL(jvm.java.io.File(jar).toURI().toURL())


def _with_delta(settled: Mapping[str, str]) -> dict[str, str]:
    """Delta's extension beside those of the user, and its catalog."""
    catalog = settled.get(CATALOG, DELTA_CATALOG)
    if catalog not in (DELTA_CATALOG, UNITY_CATALOG):
        raise ValueError(
            f"{CATALOG} must be {DELTA_CATALOG}, since the tables are Delta's, got {catalog}; give that catalog "
            "another name, such as spark.sql.catalog.other"
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

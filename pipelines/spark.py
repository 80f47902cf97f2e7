"""The only SparkSession: Delta ready from local jars, workers on the driver's Python, nothing of the user's overridden.

Whatever spark-submit, a notebook, Databricks, PYSPARK_SUBMIT_ARGS or spark-defaults.conf set stands; only what they left open is
filled. An active session is used as it is.
"""

import os
import re
import shlex
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from pyspark import SparkConf, SparkContext
from pyspark.find_spark_home import _find_spark_home
from pyspark.sql import SparkSession

DELTA_JARS: dict[str, str] = {
    "delta-kernel-api-4.4.0.jar": "ee9b5a14ac3b7efdff4d61a58478fe8eb0e5a3fbca43889dca7290795fe79a11",
    "delta-kernel-defaults-4.4.0.jar": "225c975199e4718b38ee5b7e6da7f19e9585024262b2cec2656b32151a856b0b",
    "delta-spark_4.2_2.13-4.4.0.jar": "27d4fd8b1f879535c573ed1c718177d6a27f24d3e626ba02e216369725721ead",
    "delta-storage-4.4.0.jar": "c46735481fa8e326b0957be02b4420cbcab4b325bb08009b7f2045a95133f1cc",
}
"""File name -> sha256, of exactly the Delta that the Python package delta-spark speaks to."""

DELTA_CONF = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
}
LOG_CONF = Path(__file__).with_name("log4j2.properties")
"""Errors only: what Spark says on the way hides what a job says."""
DEFAULT_MASTER = "local[2,4]"
"""Two slots, and a failed task is tried four times: `local[2]` would never run a barrier stage again."""


def cache_folder() -> Path:
    """Where set-up keeps what it fetched and built: DISTRIBUTARY_CACHE, else the user's cache folder."""
    chosen = os.environ.get("DISTRIBUTARY_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "distributary"


def jars_folder() -> Path:
    return cache_folder() / "jars"


def session(app_name: str, conf: Mapping[str, str] | None = None) -> SparkSession:
    """The active session, or a new one in which `conf` and the defaults fill what nobody set.

    Raises FileNotFoundError if Delta is neither configured by the user nor in the jars folder.
    """
    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    given = _given_conf()
    wanted = {"spark.app.name": app_name, "spark.master": DEFAULT_MASTER, "spark.pyspark.python": sys.executable,
              "spark.pyspark.driver.python": sys.executable, "spark.log.level": "ERROR",
              "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={LOG_CONF.as_uri()}",
              "spark.sql.warehouse.dir": str(cache_folder() / "spark-warehouse"), **DELTA_CONF, **(conf or {})}
    if given.get("spark.master", wanted["spark.master"]).startswith("local"):
        # One machine: nothing listens beyond it.
        wanted |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    if not _brings_delta(given):
        wanted["spark.jars"] = ",".join(filter(None, [given.pop("spark.jars", ""), *_delta_jars()]))
        if "PYSPARK_GATEWAY_PORT" in os.environ:
            _add_to_running_jvm(_delta_jars())
    chosen = SparkConf(loadDefaults=False)
    for name, value in {**wanted, **given}.items():
        chosen.set(name, value)
    os.environ.setdefault("PYSPARK_PYTHON", given.get("spark.pyspark.python", sys.executable))
    return SparkSession.builder.config(conf=chosen).getOrCreate()


def _given_conf() -> dict[str, str]:
    """What the user's launcher already set, read without starting a second JVM."""
    if "PYSPARK_GATEWAY_PORT" in os.environ:  # spark-submit started this process
        SparkContext._ensure_initialized()
        return dict(SparkConf().getAll())
    given: dict[str, str] = {}
    defaults = Path(os.environ.get("SPARK_CONF_DIR") or Path(_find_spark_home()) / "conf") / "spark-defaults.conf"
    if defaults.is_file():
        for line in defaults.read_text().splitlines():
            name, *setting = re.split(r"\s*[=\s]\s*", line.strip(), maxsplit=1)
            if name and not name.startswith("#"):
                given[name] = "".join(setting)
    # --flag=value is --flag value
    words = [part for word in shlex.split(os.environ.get("PYSPARK_SUBMIT_ARGS", ""))
             for part in (word.split("=", 1) if word.startswith("--") else [word])]
    named = {"--master": "spark.master", "--name": "spark.app.name", "--jars": "spark.jars", "--packages": "spark.jars.packages",
             "--driver-memory": "spark.driver.memory", "--executor-memory": "spark.executor.memory"}
    for flag, value in pairwise(words):
        if flag in ("--conf", "-c"):
            name, equals, text = value.partition("=")
            if not equals:
                raise ValueError(f"PYSPARK_SUBMIT_ARGS: {flag} takes name=value, got {value}")
            given[name] = text
        elif flag in named:
            given[named[flag]] = value
    return given


def _add_to_running_jvm(jars: list[str]) -> None:
    """Make the jars known to the JVM that spark-submit started before us; executors get them by `spark.jars`."""
    jvm = SparkContext._jvm
    assert jvm is not None, "_given_conf joined it"
    loader = jvm.java.lang.Thread.currentThread().getContextClassLoader()
    for jar in jars:
        loader.addURL(jvm.java.io.File(jar).toURI().toURL())


def _brings_delta(given: Mapping[str, str]) -> bool:
    places = (given.get("spark.jars", ""), given.get("spark.jars.packages", ""), given.get("spark.driver.extraClassPath", ""))
    return "DATABRICKS_RUNTIME_VERSION" in os.environ or any("delta-spark" in place for place in places)


def _delta_jars() -> list[str]:
    jars = [jars_folder() / name for name in DELTA_JARS]
    missing = [jar.name for jar in jars if not jar.is_file()]
    if missing:
        raise FileNotFoundError(f"Delta's jars {', '.join(missing)} are not in {jars_folder()}; run: make setup "
                                "(or give your own with --packages io.delta:delta-spark_4.2_2.13:4.4.0)")
    return [str(jar) for jar in jars]

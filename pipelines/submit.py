"""What the user's launcher already set, read without starting a JVM.

As spark-submit reads it: flags, --conf, properties files (the default one if no other is named), environment.
Variables that spark-env.sh exports are not seen; set them in spark-defaults.conf.
"""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from pyspark import SparkConf, SparkContext
from pyspark.find_spark_home import _find_spark_home

# What spark-submit reads if neither a flag nor a properties file sets it.
_VARIABLES = {
    "MASTER": "spark.master",
    "SPARK_REMOTE": "spark.remote",
    "SPARK_DRIVER_MEMORY": "spark.driver.memory",
    "SPARK_EXECUTOR_MEMORY": "spark.executor.memory",
    "SPARK_EXECUTOR_CORES": "spark.executor.cores",
}
_FLAGS = {
    "--master": "spark.master",
    "--remote": "spark.remote",
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


def is_driver_on_yarn() -> bool:
    """Whether YARN runs this driver on the cluster (spark-submit --master yarn --deploy-mode cluster)."""
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        return False
    given = read_given_conf()
    return given.get("spark.submit.deployMode") == "cluster" and given.get("spark.master") == "yarn"


def conf_folder() -> Path:
    """The folder of spark-defaults.conf and spark-env.sh."""
    return Path(os.environ.get("SPARK_CONF_DIR") or Path(_find_spark_home()) / "conf")


def read_given_conf() -> dict[str, str]:
    """The configuration that the user set for this process, by name.

    Raises ValueError for a --conf without a value, FileNotFoundError for a properties file that does not
    exist.
    """
    if "PYSPARK_GATEWAY_PORT" in os.environ:  # spark-submit started this process
        SparkContext._ensure_initialized()
        return dict(SparkConf().getAll())
    flags = list(_parse_flags(os.environ.get("PYSPARK_SUBMIT_ARGS", "")))
    given = {_VARIABLES[name]: value for name, value in os.environ.items() if name in _VARIABLES and value}
    named = [value for flag, value in flags if flag == "--properties-file"][-1:]
    if not named or any(flag == "--load-spark-defaults" for flag, _ in flags):
        given |= _read_properties(conf_folder() / "spark-defaults.conf", required=False)
    for file in [*named, *[value for flag, value in flags if flag == "--extra-properties-file"]]:
        given |= _read_properties(Path(file))
    for flag, value in flags:
        if flag in ("--conf", "-c"):
            name, equals, text = value.partition("=")
            if not equals:
                raise ValueError(f"PYSPARK_SUBMIT_ARGS: {flag} takes name=value, got {value}")
            given[name] = text
    return given | {_FLAGS[flag]: value for flag, value in flags if flag in _FLAGS}


def _parse_flags(arguments: str) -> Iterator[tuple[str, str]]:
    """Flags with their values; --flag=value means --flag value."""
    words = iter(shlex.split(arguments))
    for word in words:
        flag, equals, value = word.partition("=")
        if flag == "--load-spark-defaults":
            yield flag, ""
        elif flag in _FLAGS or flag in ("--conf", "-c", "--properties-file", "--extra-properties-file"):
            yield flag, value if equals else next(words, "")


def _read_properties(file: Path, *, required: bool = True) -> dict[str, str]:
    """A properties file as Java and Spark read it: a name ends at '=', ':' or white space, and a backslash at
    the end of a line continues it on the next."""
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

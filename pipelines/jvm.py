"""The JVM that this process has started: which Java it needs, jars it gets later, and whether it is gone."""

import os

from pyspark import SparkConf, SparkContext

from pipelines.machine import SUPPORTED_JAVA, feature_version, find_java, find_other_java_home
from pipelines.submit import conf_folder


def check_java() -> None:
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


def add_to_jvm(jars: list[str], conf: SparkConf) -> None:
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


def has_lost_jvm() -> bool:
    """Whether the JVM that this process started has ended. Only a new process gets another one."""
    launched = getattr(SparkContext._gateway, "proc", None)
    return launched is not None and launched.poll() is not None

import json
import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pyspark import SparkContext

from pipelines.jvm import check_java
from pipelines.machine import DELTA_JARS
from pipelines.session_conf import (
    JAVA_VARIABLES,
    add_delta,
    brings_delta,
    choose_java_options,
    choose_python,
    find_delta_jars,
    refuse_cluster_mode,
    refuse_fast_listing,
)
from pipelines.spark import count_slots, count_tasks, session
from pipelines.submit import read_given_conf

CHECKOUT = Path(__file__).parent.parent
ACTIVATED = {
    "PYTHONPATH": str(CHECKOUT),
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}
"""As in an activated environment: Spark's own scripts take python3 from PATH."""
PROBE = """
import json, sys
from pipelines.spark import session, start_ahead
conf = {"spark.sql.shuffle.partitions": "5", "spark.ui.enabled": "false"}
start_ahead("probe", conf)  # in another thread, which must leave nothing behind that only it sees
spark = session("probe", conf)
names = ["spark.sql.shuffle.partitions", "spark.master", "spark.ui.enabled", "spark.sql.extensions"]
names.append("spark.driver.host")
print(json.dumps({name: spark.conf.get(name, None) for name in names}))
loader = spark._jvm.java.lang.Thread.currentThread().getContextClassLoader()
assert loader.loadClass("io.delta.sql.DeltaSparkSessionExtension")
same = session("another", {"spark.sql.shuffle.partitions": "9"})
assert same.conf.get("spark.sql.shuffle.partitions") == spark.conf.get("spark.sql.shuffle.partitions")
worker = spark.sparkContext.parallelize([0], 1).map(lambda _: __import__("sys").executable).first()
assert worker == sys.executable, worker
"""


@pytest.fixture
def given(monkeypatch, tmp_path):
    for name in (
        "PYSPARK_GATEWAY_PORT",
        "MASTER",
        "SPARK_DRIVER_MEMORY",
        "SPARK_EXECUTOR_MEMORY",
        "SPARK_EXECUTOR_CORES",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))
    (tmp_path / "spark-defaults.conf").write_text(
        "# a comment\nspark.executor.memory   7g\nspark.eventLog.enabled=true\n"
        "spark.driver.extraJavaOptions -Da=b -Dc=d\n\n"
    )

    def conf(arguments: str) -> dict[str, str]:
        monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", arguments)
        return read_given_conf()

    return conf


def test_what_the_user_set_is_found_without_a_jvm(given):
    assert given("--master=local[1] --conf spark.a=b=c -c spark.d=e --conf=spark.f=g pyspark-shell") == {
        "spark.f": "g",
        "spark.driver.extraJavaOptions": "-Da=b -Dc=d",
        "spark.master": "local[1]",
        "spark.a": "b=c",
        "spark.d": "e",
        "spark.executor.memory": "7g",
        "spark.eventLog.enabled": "true",
    }


def test_a_properties_file_stands_in_for_the_default_one(given, tmp_path):
    # Each line as spark-submit --verbose of 4.2 shows it.
    (tmp_path / "mine").write_text(
        "spark.a=1\nspark.b: 2\n  ! c\\\nspark.c 3\\\n  4\nother.x 5\nspark.col\\:on=6\n"
        "spark.none\n spark.sp   =   two words  \n"
    )
    (tmp_path / "extra").write_text("spark.a=extra\n")
    mine = {
        "spark.a": "1",
        "spark.b": "2",
        "spark.c": "34",
        "spark.col:on": "6",
        "spark.none": "",
        "spark.sp": "two words",
    }
    assert given(f"--properties-file {tmp_path}/mine pyspark-shell") == mine
    extra = given(
        f"--properties-file={tmp_path}/mine --extra-properties-file {tmp_path}/extra "
        "--conf spark.b=conf pyspark-shell"
    )
    assert extra == {**mine, "spark.a": "extra", "spark.b": "conf"}
    with_defaults = given(f"--load-spark-defaults --properties-file {tmp_path}/mine pyspark-shell")
    assert with_defaults == {**given("pyspark-shell"), **mine}
    with pytest.raises(
        FileNotFoundError, match=f"no properties file at {tmp_path}/gone; correct --properties-file"
    ):
        given(f"--properties-file {tmp_path}/gone pyspark-shell")


def test_the_environment_counts_where_nothing_else_is_said_and_a_flag_counts_most(given, monkeypatch):
    monkeypatch.setenv("MASTER", "spark://there:7077")
    monkeypatch.setenv("SPARK_EXECUTOR_MEMORY", "1g")
    assert given("pyspark-shell")["spark.master"] == "spark://there:7077"
    assert given("pyspark-shell")["spark.executor.memory"] == "7g"  # spark-defaults.conf
    assert given("--master yarn --conf spark.master=local[5] pyspark-shell")["spark.master"] == "yarn"
    java_options = given("--driver-java-options --add-opens=a/b=ALL-UNNAMED pyspark-shell")[
        "spark.driver.extraJavaOptions"
    ]
    assert java_options == "--add-opens=a/b=ALL-UNNAMED"


@pytest.mark.parametrize(
    ("extensions", "expected"),
    [
        ("", "io.delta.sql.DeltaSparkSessionExtension"),
        ("io.delta.sql.DeltaSparkSessionExtension,b", "io.delta.sql.DeltaSparkSessionExtension,b"),
        (
            "org.apache.sedona.sql.SedonaSqlExtensions , b",
            "org.apache.sedona.sql.SedonaSqlExtensions,b,io.delta.sql.DeltaSparkSessionExtension",
        ),
    ],
)
def test_delta_s_extension_stands_beside_the_user_s(extensions, expected):
    assert add_delta({"spark.sql.extensions": extensions})["spark.sql.extensions"] == expected


def test_another_catalog_in_delta_s_place_is_refused_with_the_remedy():
    name = "spark.sql.catalog.spark_catalog"
    with pytest.raises(
        ValueError,
        match=r"spark_catalog must be .*\.DeltaCatalog, .*, got org.apache.iceberg.Other; give that",
    ):
        add_delta({name: "org.apache.iceberg.Other"})
    assert (
        add_delta({name: "io.unitycatalog.spark.UCSingleCatalog"})[name]
        == "io.unitycatalog.spark.UCSingleCatalog"
    )


@pytest.mark.parametrize("value", ["true", " TRUE "])
def test_fast_listing_on_s3_is_refused(value):
    with pytest.raises(ValueError, match=r"enableFastS3AListFrom must not be true.*Hadoop 3\.5\.0.*remove"):
        refuse_fast_listing({"spark.hadoop.delta.enableFastS3AListFrom": value})
    refuse_fast_listing({"spark.hadoop.delta.enableFastS3AListFrom": "false"})


def test_fast_listing_of_a_running_session_is_refused(spark, monkeypatch):
    hadoop = spark.sparkContext._jsc.hadoopConfiguration()
    monkeypatch.setattr("pipelines.spark._applied", None)
    hadoop.set("delta.enableFastS3AListFrom", "true")
    try:
        with pytest.raises(ValueError, match="enableFastS3AListFrom must not be true"):
            session("any")
    finally:
        hadoop.unset("delta.enableFastS3AListFrom")
    assert session("any") is spark


def test_a_driver_that_runs_here_refuses_cluster_mode(monkeypatch):
    monkeypatch.delenv("PYSPARK_GATEWAY_PORT", raising=False)
    wanted = r"deployMode is cluster, .*already the driver; remove .*spark-submit --deploy-mode cluster.*YARN"
    with pytest.raises(ValueError, match=wanted):
        refuse_cluster_mode({"spark.submit.deployMode": "cluster"})
    refuse_cluster_mode({"spark.submit.deployMode": "client"})
    refuse_cluster_mode({})
    monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "1")  # spark-submit has moved the driver to the cluster
    refuse_cluster_mode({"spark.submit.deployMode": "cluster"})


def test_another_thread_gets_the_running_session_as_it_is(spark):
    before = spark.conf.get("spark.sql.shuffle.partitions")
    with ThreadPoolExecutor(1) as pool:
        same = pool.submit(session, "another", {"spark.sql.shuffle.partitions": "9"}).result()
    assert same.sparkContext is spark.sparkContext
    assert spark.conf.get("spark.sql.shuffle.partitions") == before != "9"


@pytest.fixture
def java(monkeypatch, tmp_path):
    """A JAVA_HOME whose java says its version, as if no JVM ran."""
    monkeypatch.setattr(SparkContext, "_gateway", None)
    for name in ("PYSPARK_GATEWAY_PORT", "DATABRICKS_RUNTIME_VERSION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))
    (tmp_path / "bin").mkdir()

    def says(version: str) -> None:
        program = tmp_path / "bin" / "java"
        program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2019-01-15' >&2\n")
        program.chmod(0o755)

    return says


def test_a_java_too_old_for_spark_is_named_with_the_remedy(java, tmp_path, monkeypatch):
    java("11.0.2")
    with pytest.raises(
        RuntimeError,
        match=rf"JAVA_HOME names {tmp_path}/bin/java is Java 11.0.2; Spark needs Java 17 or 21; ",
    ):
        check_java()
    monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "1")
    check_java()


def test_a_java_newer_than_tested_and_one_that_spark_env_chooses_may_try(java, tmp_path):
    java("25.0.3")
    check_java()
    java("11.0.2")
    (tmp_path / "spark-env.sh").write_text("JAVA_HOME=/opt/java17\n")
    check_java()


def test_a_session_asks_for_java_before_the_jvm(java, tmp_path):
    java("1.8.0_392")
    done = subprocess.run(
        [sys.executable, "-c", "from pipelines.spark import session; session('probe')"],
        capture_output=True,
        text=True,
        env={**os.environ, **ACTIVATED},
        check=False,
    )
    assert f"RuntimeError: JAVA_HOME names {tmp_path}/bin/java is Java 1.8.0_392" in done.stderr
    assert "JAVA_GATEWAY_EXITED" not in done.stderr


def test_delta_brought_by_the_user_is_left_alone(monkeypatch):
    assert brings_delta({"spark.jars.packages": "io.delta:delta-spark_4.2_2.13:4.4.0"})
    assert not brings_delta({"spark.jars": "mine.jar"})
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "18")
    assert brings_delta({})


def test_missing_jars_are_named_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=f"{next(iter(DELTA_JARS))}.* are not in {tmp_path}/jars; run: make setup"
    ):
        find_delta_jars()


@pytest.mark.slow
@pytest.mark.parametrize("submitted", [True, False], ids=["spark-submit", "python"])
def test_a_launcher_s_settings_stand_and_ours_fill_the_rest(tmp_path, submitted):
    script = tmp_path / "probe.py"
    script.write_text(PROBE)
    environment = {**os.environ, **ACTIVATED}
    with zipfile.ZipFile(tmp_path / "mine.jar", "w") as jar:
        jar.writestr("empty", "")
    given = [
        "--master",
        "local[1]",
        "--conf",
        "spark.sql.shuffle.partitions=7",
        "--jars",
        f"{tmp_path}/mine.jar",
        "--conf",
        "spark.sql.extensions=org.example.Gone",
    ]
    if submitted:
        command = [str(Path(sys.executable).with_name("spark-submit")), *given, str(script)]
    else:
        command = [sys.executable, str(script)]
        environment["PYSPARK_SUBMIT_ARGS"] = " ".join([*given, "pyspark-shell"])
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "spark.sql.shuffle.partitions": "7",
        "spark.master": "local[1]",
        "spark.ui.enabled": "false",
        "spark.sql.extensions": "org.example.Gone,io.delta.sql.DeltaSparkSessionExtension",
        "spark.driver.host": "127.0.0.1",
    }


@pytest.mark.parametrize(
    ("settled", "variable", "python"),
    [
        ({}, None, sys.executable),
        ({"spark.archives": "hdfs:///p.tar.gz#environment"}, None, "./environment/bin/python"),
        ({"spark.yarn.dist.archives": "a.zip,b.tar.gz#environment"}, None, "./environment/bin/python"),
        ({"spark.archives": "data.zip#words"}, None, sys.executable),
        ({"spark.archives": "p.tar.gz#environment", "spark.master": "local[2]"}, None, sys.executable),
        ({"spark.archives": "p.tar.gz#environment"}, "/opt/python", "/opt/python"),
        ({"spark.pyspark.python": "/mine"}, "/opt/python", "/mine"),
    ],
)
def test_executors_get_the_user_s_python_or_the_archive_s(monkeypatch, settled, variable, python):
    monkeypatch.delenv("PYSPARK_PYTHON", raising=False)
    if variable:
        monkeypatch.setenv("PYSPARK_PYTHON", variable)
    assert choose_python({"spark.master": "yarn", **settled}) == python


@pytest.mark.parametrize(
    ("master", "is_short"),
    [
        ("local", True),
        ("local[2,4]", True),
        ("local[8]", True),
        ("local[9]", False),
        ("local-cluster[2,1,1024]", False),
        ("yarn", False),
    ],
)
def test_a_small_local_jvm_compiles_once(monkeypatch, master, is_short):
    for name in JAVA_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    settled = {"spark.master": master}
    assert choose_java_options(settled) == ("-XX:TieredStopAtLevel=1 -XX:+UseSerialGC" if is_short else "")
    assert choose_java_options({**settled, "spark.driver.defaultJavaOptions": "-XX:+UseG1GC"}) == ""
    monkeypatch.setenv("JDK_JAVA_OPTIONS", "-XX:+UseG1GC")  # two collectors would be an error of Java
    assert choose_java_options(settled) == ""


def test_delta_in_spark_s_own_folder_is_not_added_again(tmp_path, monkeypatch):
    (tmp_path / "jars").mkdir()
    monkeypatch.setenv("SPARK_HOME", str(tmp_path))
    assert not brings_delta({})
    (tmp_path / "jars" / "delta-spark_4.2_2.13-4.4.0.jar").touch()
    assert brings_delta({})


def test_slots_and_tasks_of_a_session_are_counted(spark):
    assert count_slots(spark) == 2
    assert count_tasks(spark) is None  # nothing runs

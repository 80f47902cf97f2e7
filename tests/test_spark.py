import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.spark import DELTA_JARS, _brings_delta, _delta_jars, _given_conf

CHECKOUT = Path(__file__).parent.parent
ACTIVATED = {"PYTHONPATH": str(CHECKOUT), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
"""As in an activated environment: Spark's own scripts take python3 from PATH."""
PROBE = """
import json, sys
from pipelines.spark import session
spark = session("probe", {"spark.sql.shuffle.partitions": "5", "spark.ui.enabled": "false"})
names = ["spark.sql.shuffle.partitions", "spark.master", "spark.ui.enabled", "spark.sql.extensions", "spark.driver.host"]
print(json.dumps({name: spark.conf.get(name, None) for name in names}))
same = session("another", {"spark.sql.shuffle.partitions": "9"})
assert same.conf.get("spark.sql.shuffle.partitions") == spark.conf.get("spark.sql.shuffle.partitions")
worker = spark.sparkContext.parallelize([0], 1).map(lambda _: __import__("sys").executable).first()
assert worker == sys.executable, worker
"""


@pytest.fixture
def given(monkeypatch, tmp_path):
    monkeypatch.delenv("PYSPARK_GATEWAY_PORT", raising=False)
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))
    (tmp_path / "spark-defaults.conf").write_text("# a comment\nspark.executor.memory   7g\nspark.eventLog.enabled=true\n"
                                                  "spark.driver.extraJavaOptions -Da=b -Dc=d\n\n")

    def conf(arguments: str) -> dict[str, str]:
        monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", arguments)
        return _given_conf()
    return conf


def test_what_the_user_set_is_found_without_a_jvm(given):
    assert given("--master=local[1] --conf spark.a=b=c -c spark.d=e --conf=spark.f=g pyspark-shell") == {
        "spark.f": "g", "spark.driver.extraJavaOptions": "-Da=b -Dc=d",
        "spark.master": "local[1]", "spark.a": "b=c", "spark.d": "e", "spark.executor.memory": "7g",
        "spark.eventLog.enabled": "true"}


def test_delta_brought_by_the_user_is_left_alone(monkeypatch):
    assert _brings_delta({"spark.jars.packages": "io.delta:delta-spark_4.2_2.13:4.4.0"})
    assert not _brings_delta({"spark.jars": "mine.jar"})
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "18")
    assert _brings_delta({})


def test_missing_jars_are_named_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"{next(iter(DELTA_JARS))}.* are not in {tmp_path}/jars; run: make setup"):
        _delta_jars()


@pytest.mark.parametrize("submitted", [True, False], ids=["spark-submit", "python"])
def test_a_launcher_s_settings_stand_and_ours_fill_the_rest(tmp_path, submitted):
    script = tmp_path / "probe.py"
    script.write_text(PROBE)
    environment = {**os.environ, **ACTIVATED}
    given = ["--master", "local[1]", "--conf", "spark.sql.shuffle.partitions=7"]
    if submitted:
        command = [str(Path(sys.executable).with_name("spark-submit")), *given, str(script)]
    else:
        command = [sys.executable, str(script)]
        environment["PYSPARK_SUBMIT_ARGS"] = " ".join([*given, "pyspark-shell"])
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "spark.sql.shuffle.partitions": "7", "spark.master": "local[1]", "spark.ui.enabled": "false",
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension", "spark.driver.host": "127.0.0.1"}

"""What a session that cannot run ranks says: no server is needed."""

import pytest
from pyspark.errors import PySparkException

from pipelines.connect import zip_code
from pipelines.finetune.launch.slots import explain_refusal
from pipelines.spark import find_remote, persisted

REFUSED = (
    "TaskResourceProfiles are only supported for Standalone, Yarn and Kubernetes cluster for now when "
    "dynamic allocation is disabled.\n\nJVM stacktrace:\norg.apache.spark.SparkException\n\tat org.apache..."
)
"""As Spark 4.2's server says it."""
OTHER_PYTHON = (
    "Job aborted due to stage failure: ShuffleMapStage 3 has failed the maximum allowable number of times\n"
    "org.apache.spark.api.python.PythonException: Traceback (most recent call last):\n"
    '  File "worker.py", line 3622, in main\n'
    "pyspark.errors.exceptions.base.PySparkRuntimeError: [PYTHON_VERSION_MISMATCH] Python in worker has "
    "different version: 3.12 than that in driver: 3.11\n\n\tat org.apache.spark..."
)


def test_a_refused_barrier_stage_names_the_access_mode():
    said = explain_refusal(REFUSED)
    assert "cannot run ranks (TaskResourceProfiles are only supported" in said
    assert "JVM stacktrace" not in said
    assert "choose compute with the access mode Dedicated (formerly single user)" in said


def test_a_fault_of_the_workers_does_not_blame_the_access_mode():
    said = explain_refusal(OTHER_PYTHON)
    assert said.startswith("the executors cannot run our Python: ")
    assert "[PYTHON_VERSION_MISMATCH] Python in worker has different version: 3.12" in said
    assert "access mode" not in said


@pytest.fixture
def no_launcher(monkeypatch, tmp_path):
    for name in ("PYSPARK_GATEWAY_PORT", "PYSPARK_SUBMIT_ARGS", "SPARK_REMOTE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))


@pytest.mark.usefixtures("no_launcher")
def test_the_launchers_server_stands_before_the_configured_one(monkeypatch):
    assert find_remote({}) == ""
    assert find_remote({"spark.remote": "sc://configured:15002"}) == "sc://configured:15002"
    monkeypatch.setenv("SPARK_REMOTE", "sc://environment:15002")
    assert find_remote({"spark.remote": "sc://configured:15002"}) == "sc://environment:15002"
    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", "--remote sc://flag:15002 pyspark-shell")
    assert find_remote({}) == "sc://flag:15002"


@pytest.mark.usefixtures("no_launcher")
def test_a_local_master_is_no_connect_server():
    with pytest.raises(
        ValueError, match=r"spark\.remote must be the address .*sc://HOST:15002\), got local\[2\]"
    ):
        find_remote({"spark.remote": "local[2]"})


def test_the_shipped_code_is_named_by_its_content(tmp_path):
    import zipfile

    first, second = (zip_code(tmp_path / name) for name in ("a", "b") if (tmp_path / name).mkdir() is None)
    assert first.name == second.name
    names = zipfile.ZipFile(first).namelist()
    assert {"pipelines/finetune/worker.py", "pipelines/connect.py", "pipelines/scoring/batch.py"} <= set(
        names
    )
    assert not [name for name in names if not name.startswith("pipelines/")]


class Rows:
    """Rows of a session that refuses to cache."""

    def __init__(self, session):
        self.sparkSession = session

    def persist(self, level):
        raise PySparkException(
            "[NOT_SUPPORTED_WITH_SERVERLESS] PERSIST TABLE is not supported\nJVM stacktrace"
        )

    def unpersist(self):
        raise AssertionError("what was not cached is not removed")


def test_a_session_without_a_cache_computes_rows_again(caplog):
    remote = type("Session", (), {"__module__": "pyspark.sql.connect.session"})()
    with persisted(Rows(remote)) as rows:
        assert isinstance(rows, Rows)
    assert "cannot cache rows, so they are computed at each use ([NOT_SUPPORTED" in caplog.text
    assert "JVM stacktrace" not in caplog.text


def test_classic_spark_that_cannot_cache_is_an_error():
    classic = type("Session", (), {"__module__": "pyspark.sql.session"})()
    with pytest.raises(PySparkException), persisted(Rows(classic)):
        pass

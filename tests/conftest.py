"""One SparkSession for the whole run: starting one takes longer than most tests."""

import os

import pytest

os.environ.setdefault("SPARK_SUBMIT_OPTS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
os.environ["HF_HUB_OFFLINE"] = "1"

TEST_CONF = {
    "spark.sql.shuffle.partitions": "2",
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.memory": "2g",
}


@pytest.fixture(scope="session")
def spark():
    from pipelines.spark import session

    started = session("tests", TEST_CONF)
    yield started
    started.stop()

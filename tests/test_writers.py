"""Two writers, lost executors and killed drivers: real processes, on local disks and on an S3 server."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pyspark
import pytest
from pyspark.sql.types import LongType, StringType, StructField, StructType

from pipelines.commit import create_table
from pipelines.pin import open_log, pin
from pipelines.stores import delta_options
from tests import disturbed_write
from tests.processes import CHECKOUT, SHORT_JVM, wait_until
from tests.servers.jars import require_jars
from tests.servers.s3 import BUCKET, s3_server
from tests.two_drivers import NUMBERS, OWN, SHARED

pytestmark = pytest.mark.slow

NUMBERS_SCHEMA = StructType(
    [StructField("number", LongType(), nullable=False), StructField("by", StringType())]
)
"""Of two_drivers.NUMBERS; this process has no JVM."""


def start(script, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", f"tests.{script}", *map(str, arguments)],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.fixture
def spark_home(tmp_path):
    """Executors start from SPARK_HOME and write into its folder `work`, so they get a home made of links."""
    home = tmp_path / "spark"
    home.mkdir()
    for part in Path(pyspark.__file__).parent.iterdir():
        (home / part.name).symlink_to(part)
    return home


def write_disturbed(folder, kinds, master, home):
    """What the script prints of each disturbance."""
    cluster = {
        "SPARK_HOME": str(home),
        "SPARK_SCALA_VERSION": "2.13",
        "PYSPARK_SUBMIT_ARGS": f"--master {master} pyspark-shell",
    }
    driver = start("disturbed_write", folder, *kinds, **cluster)
    try:
        output, _ = driver.communicate(timeout=300)
    finally:
        driver.kill()
    lines = [line for line in output.splitlines() if line.startswith("RESULT ")]
    assert lines, output[-4000:]
    return json.loads(lines[0].removeprefix("RESULT "))


def test_lost_executors_and_damaged_shuffles_change_no_digest(tmp_path, spark_home):
    master = "local-cluster[2,1,1024]"
    # The kill comes last: the others want the same two executors.
    outcomes = write_disturbed(tmp_path / "written", ["none", "damage", "kill"], master, spark_home)
    assert {each["digest"] for each in outcomes.values()} == {outcomes["none"]["digest"]}, outcomes
    assert all(each["pinned"] and each["read"] and not each["jobs failed"] for each in outcomes.values())
    # The disturbances happened: a third executor came, and shuffle files were damaged.
    assert [outcomes[kind]["executors"] for kind in outcomes] == [2, 2, 3], outcomes
    assert outcomes["kill"]["tasks"] > outcomes["none"]["tasks"], outcomes
    assert outcomes["damage"]["damaged"], outcomes
    # Spark noticed: it computed what the damaged files held once more.
    assert outcomes["none"]["most attempts"] == 1 < outcomes["damage"]["most attempts"], outcomes


@contextmanager
def two_workers(folder, home):
    """The URL of a master whose workers have two addresses: a second attempt runs on another host only."""
    program = [str(home / "bin" / "spark-class"), "org.apache.spark.deploy"]
    environment = {**os.environ, "SPARK_HOME": str(home), "SPARK_DAEMON_MEMORY": "160m"}
    environment["SPARK_DAEMON_JAVA_OPTS"] = SHORT_JVM
    daemons = []

    def start_daemon(name, sign, *arguments):
        command = [program[0], f"{program[1]}.{name}", "--webui-port", "0", *map(str, arguments)]
        output = folder / f"daemon{len(daemons)}.log"
        with output.open("w") as log:
            daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        wait_until(lambda: sign in output.read_text() or daemons[-1].poll() is not None)
        assert daemons[-1].poll() is None, output.read_text()
        return output.read_text()

    try:
        log = start_daemon("master.Master", "elected leader", "--host", "127.0.0.1", "--port", "0")
        master = re.search(r"spark://127\.0\.0\.1:\d+", log)[0]
        for address in ("127.0.0.1", "127.0.0.2"):
            sizes = ["--cores", 1, "--memory", "1g", "--work-dir", folder / address]
            start_daemon("worker.Worker", "Successfully registered", "--host", address, *sizes, master)
        yield master
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(60)


def test_the_loser_of_speculation_adds_no_rows(spark, tmp_path, spark_home):
    with two_workers(tmp_path, spark_home) as master:
        master = f"{master} --conf spark.executor.memory=512m"
        outcome = write_disturbed(tmp_path / "written", ["speculate"], master, spark_home)["speculate"]
    assert outcome["attempts"] == sorted([*(f"{task}-0" for task in range(disturbed_write.NUM_TASKS)), "0-1"])
    table = tmp_path / "written" / "speculate" / "table"
    log = open_log(str(table))
    files = {str(file.relative_to(table)) for file in table.rglob("*.parquet")}
    # The loser had written its shard, and only the table's other shards have rows of it.
    (loser,) = files - set(log.list_shards())
    lost = pq.read_table(table / loser)["number"].to_pylist()
    rows = log.source.table.to_pyarrow_table()["number"].to_pylist()
    assert set(lost) < set(rows)
    assert sorted(rows) == list(range(disturbed_write.NUM_ROWS))
    numbers = disturbed_write.make_numbers(spark)
    assert disturbed_write.NUMBERS.digest(numbers) == (outcome["digest"], len(rows))
    assert [outcome[name] for name in ("pinned", "read", "jobs failed")] == [True, True, 0]


def append_at_once(root, signs, num_tables, num_named=0, **environment):
    """Two drivers append to the same tables; raises AssertionError with their output if one fails."""
    signs.mkdir()
    drivers = [start("two_drivers", root, signs, me, num_tables, num_named, **environment) for me in "ab"]
    try:
        outputs = [driver.communicate(timeout=550)[0] for driver in drivers]
    finally:
        for driver in drivers:
            driver.kill()
    for driver, output in zip(drivers, outputs, strict=True):
        assert driver.returncode == 0, output[-4000:]


def require_every_key_once(root, num_tables):
    expected = sorted([*SHARED, *OWN["a"], *OWN["b"]])
    for number in range(num_tables):
        path = f"{root}/table{number}"
        log = open_log(path)
        rows = log.source.table.to_pyarrow_table()
        assert sorted(rows["number"].to_pylist()) == expected
        pins = [pin(path, made_from=f"{me}{number}") for me in "ab"]
        assert sorted(each.version for each in pins) == [1, 2]
        assert sorted(each.num_rows for each in pins) == [40, 60]
        assert log.version == 2


def test_two_drivers_append_every_key_once(tmp_path):
    append_at_once(tmp_path / "lake", tmp_path / "signs", 3)
    require_every_key_once(tmp_path / "lake", 3)


def test_two_drivers_append_every_key_once_on_s3(tmp_path, monkeypatch):
    """The last two tables exist, and are named in the catalog of each driver."""
    require_jars("s3")
    with s3_server(tmp_path) as server:
        environment = {
            "AWS_ENDPOINT_URL": server.endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        root = f"s3a://{BUCKET}/twice"
        assert delta_options(root)["aws_endpoint_url"] == server.endpoint
        for number in (3, 4):
            table = {"name": "numbers", "description": "", "partition_by": (), "properties": {}}
            create_table(f"{root}/table{number}", NUMBERS_SCHEMA.json(), **table)
        append_at_once(root, tmp_path / "signs", 5, 2, **environment)
        require_every_key_once(root, 5)


@pytest.mark.parametrize("moment", ["created", pytest.param("held", marks=pytest.mark.soak)])
def test_a_killed_driver_leaves_no_rows_behind(spark, tmp_path, moment):
    table, sign = str(tmp_path / "table"), tmp_path / "sign"
    driver = start("killed_driver", table, sign, moment)
    try:
        wait_until(lambda: sign.exists() or driver.poll() is not None)
        assert driver.poll() is None, driver.stdout.read()
        os.kill(driver.pid, signal.SIGKILL)
    finally:
        driver.kill()
        driver.wait()
        driver.stdout.close()
    left = [file for file in Path(table).rglob("*.parquet") if "_delta_log" not in file.parts]
    assert left, "the rows were written before the driver was killed"
    assert pin(table) is None
    rows = spark.createDataFrame([(n, "again") for n in range(30)], NUMBERS.schema)
    written = NUMBERS.overwrite(rows, table, fingerprint="a", facts={})
    assert written.num_rows == NUMBERS.read(spark, table).count() == 30
    assert NUMBERS.digest(NUMBERS.read(spark, table)) == (written.digest, 30)
    assert time.time() - sign.stat().st_mtime < 300

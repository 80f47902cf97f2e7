"""The five stages, and ranks alone, as a client of a real Spark Connect server."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import finetune
from pipelines.finetune.results import read_result
from pipelines.tables import DOCUMENTS, PREDICTIONS, QUARANTINE, SEQUENCES
from tests.conftest import flow_overrides, write_tickets
from tests.connect.server import connect_server

pytest.importorskip("grpc", reason="Spark Connect needs the extra [connect]")
pytestmark = [pytest.mark.horovod, pytest.mark.slow]

CHECKOUT = Path(__file__).parents[2]
PATIENCE_SECONDS = 500


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with connect_server(tmp_path_factory.mktemp("server"), master="local[2,4]") as address:
        yield address


def run_client(*arguments: str) -> subprocess.CompletedProcess:
    """A Python process without Java: a client that tries to start a JVM fails."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(CHECKOUT),
        "JAVA_HOME": "/nowhere",
        "PATH": str(Path(sys.executable).parent),
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=CHECKOUT,
        env=environment,
        text=True,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


@pytest.fixture(scope="module")
def seen(server, tmp_path_factory):
    """What tests/connect/client.py saw."""
    ended = run_client("-m", "tests.connect.client", server, str(tmp_path_factory.mktemp("ranks")))
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def test_the_session_is_a_client_and_counts_its_slots(seen):
    assert seen["session"].startswith("pyspark.sql.connect")
    assert seen["slots"] == 2


def test_ranks_meet_with_the_code_that_the_client_sent(seen):
    assert [rank[:3] for rank in seen["meet"]] == [[0, 2, 3.0], [1, 2, 3.0]]
    assert all(".zip" in rank[3] for rank in seen["meet"]), seen["meet"]


def test_an_exception_arrives_with_its_traceback_after_one_try(seen):
    message, tries = seen["raise_in_one_rank"]
    assert message.startswith("rank 1 on 127.0.0.1 failed: ValueError: row 17 has no label")
    assert 'raise ValueError("row 17 has no label")' in message
    assert tries == "x"


def test_a_killed_rank_starts_all_ranks_again(seen):
    assert seen["kill_one_rank"] == [[0, 1], True]


def test_a_lasting_fault_keeps_the_ranks_traceback(seen):
    message = seen["fail_at_every_try"]
    assert message.startswith(
        "the ranks failed at every try: OSError: [Errno 5] Input/output error of the disk"
    )
    assert 'raise OSError(5, "Input/output error of the disk")' in message


def test_too_many_ranks_are_refused_at_once(seen):
    message, seconds = seen["ask_for_too_many"]
    assert message == (
        "finetune.num_ranks is 3, but local[2,4] runs fewer tasks at once; give Spark --master local[3,4]"
    )
    assert seconds < 15  # the promise to the user, not a measure of speed


def test_the_client_can_stop_working_ranks(seen):
    ranks, seconds = seen["stop_the_ranks"]
    assert ranks == [0, 1]
    assert seconds < 110  # the ranks would have slept for 120 s


def test_tasks_of_the_server_compare_the_keys(seen):
    num_rows, num_files, message = seen["repeat_a_key"]
    assert (num_rows, num_files) == (8_999, 0)
    assert message.startswith("quarantine: 1 of 9,001 rows repeat a key")
    assert "'offset': 77}" in message


@pytest.fixture(scope="module")
def connected_flow(server, tmp_path_factory):
    """The five stages over Spark Connect, and what the client printed."""
    folder = tmp_path_factory.mktemp("connected")
    write_tickets(folder / "raw")
    ended = run_client("-m", "jobs.run", *flow_overrides(folder), f"spark.remote={server}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder, ended.stdout


@pytest.mark.soak  # tests/cluster/test_connect.py compares the same, with executors on two hosts
def test_tables_and_weights_equal_those_of_classic_spark(spark, flow, connected_flow):
    folder, output = connected_flow
    for table in (DOCUMENTS, QUARANTINE, SEQUENCES, PREDICTIONS):
        here, there = (table.read(spark, f"{each}/lake/{table.name}") for each in (flow.folder, folder))
        assert table.digest(there) == table.digest(here), table.name
        assert there.schema == here.schema, table.name
    (result,) = [read_result(str(run)) for run in (folder / "lake" / "finetune").iterdir() if run.is_dir()]
    undisturbed = read_result(finetune.plan(flow.configs["finetune"]).inputs[0].folder)
    assert result["weights"] == undisturbed["weights"], output

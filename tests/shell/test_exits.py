"""Exit statuses: which errors deserve a retry, and what SIGTERM does to a command."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from py4j.protocol import Py4JNetworkError

from jobs.shell.exits import Exit, Stopped, find_exit
from pipelines.contract import ChangedMeanwhileError
from pipelines.delta import ContractError
from pipelines.finetune.launch.barrier import RankError
from pipelines.lease import LeaseHeldError, LeaseLostError

CHECKOUT = Path(__file__).resolve().parents[2]
IN_A_WORKER = """An error occurred while calling o54.collectToPython.
org.apache.spark.api.python.PythonException: Traceback (most recent call last):
  File "/x/score.py", line 11, in score
    raise {kind}("what happened")
{module}{kind}: what happened

\tat org.apache.spark.api.python.BasePythonRunner.handlePythonException(PythonRunner.scala:581)
"""
FROM_A_RANK = """rank 1 on node-2 failed: {summary}

Traceback on that rank:
Traceback (most recent call last):
  File "/x/meet.py", line 7, in meet
    barrier.wait(timeout=30)  # Connection refused, timed out
  File "/x/meet.py", line 9, in count
    return sums[name]
{summary}
"""
SEARCHED = "org.apache.spark.SparkException: Job aborted\n\tat java.net.URLClassLoader.findClass(a.java:1)"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ContractError("documents: 3 of 9 rows have null text"), Exit.INPUT),
        (ValueError("the server timed out, says row 3"), Exit.INPUT),
        (FileNotFoundError("no documents table; run first: distributary corpus"), Exit.INPUT),
        (PermissionError(errno.EACCES, "permission denied"), Exit.INPUT),
        (LookupError("no registered model 'a'"), Exit.INPUT),
        (KeyError("text"), Exit.UNEXPECTED),
        (TypeError("None is not iterable"), Exit.UNEXPECTED),
        (OSError(errno.EIO, "input/output error"), Exit.RETRY),
        (OSError(errno.ENOSPC, "no space left on device"), Exit.RETRY),
        (ConnectionRefusedError(errno.ECONNREFUSED, "connection refused"), Exit.RETRY),
        (TimeoutError("the storage does not answer within 12 s"), Exit.RETRY),
        (OSError("When listing objects: AWS Error NETWORK_CONNECTION during ListObjectsV2"), Exit.RETRY),
        (OSError("When listing objects: AWS Error ACCESS_DENIED during ListObjectsV2"), Exit.CONFIGURATION),
        (OSError("AWS Error INVALID_ACCESS_KEY_ID during HeadObject"), Exit.CONFIGURATION),
        (ImportError("node-2: torch is missing"), Exit.CONFIGURATION),
        (LeaseHeldError("in use by process 7", is_local=True, renewed_at=0.0), Exit.RETRY),
        (LeaseLostError("taken over"), Exit.RETRY),
        (ChangedMeanwhileError("files changed while they were read"), Exit.RETRY),
        (Py4JNetworkError("Answer from Java side is empty"), Exit.RETRY),
        (MlflowException("API request to http://h:5000 failed: Max retries exceeded with url"), Exit.RETRY),
        (MlflowException("Detected out-of-date database schema (found version a)"), Exit.CONFIGURATION),
        (MlflowException("Invalid value for parameter 'name'"), Exit.UNEXPECTED),
        (Exception(IN_A_WORKER.format(kind="OSError", module="")), Exit.RETRY),
        (Exception(IN_A_WORKER.format(kind="ContractError", module="pipelines.delta.")), Exit.INPUT),
        (Exception(IN_A_WORKER.format(kind="KeyError", module="")), Exit.UNEXPECTED),
        (Exception("Job aborted: ExecutorLostFailure (executor 3 exited)"), Exit.RETRY),
        (RankError(FROM_A_RANK.format(summary="KeyError: 'loss'")), Exit.UNEXPECTED),
        (RankError(FROM_A_RANK.format(summary="TimeoutError: no answer")), Exit.RETRY),
        (RuntimeError("no Java on PATH; Spark needs Java 17 or 21; run: make system"), Exit.CONFIGURATION),
        (Exception(SEARCHED), Exit.UNEXPECTED),
        (Exception(SEARCHED.replace("\tat ", "Caused by: ")), Exit.RETRY),
        (KeyboardInterrupt(), Exit.INTERRUPTED),
        (Stopped("SIGTERM"), Exit.TERMINATED),
    ],
)
def test_an_error_has_the_status_of_its_cause(error, status):
    assert find_exit(error, configuring=False) is status


def test_errors_of_an_unfinished_configuration_are_its_own():
    assert find_exit(ValueError("unknown key a.b"), configuring=True) is Exit.CONFIGURATION
    assert find_exit(FileNotFoundError("no recipe 'x'"), configuring=True) is Exit.CONFIGURATION
    assert find_exit(ConnectionError("the MLflow server does not answer"), configuring=True) is Exit.RETRY


STAGE = """
import sys, time
from jobs import corpus
from jobs.shell.command import build_command
from jobs.shell.plan import Outcome
import typer

def main(config, check):
    try:
        print("working", flush=True)
        time.sleep(60)
    finally:
        time.sleep(0.5)
        print("cleaned up", flush=True)

main.__module__ = "jobs.corpus"
typer.run(build_command("corpus", corpus.Config, main, corpus.plan))
"""


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_command_cleans_up_and_says_so(tmp_path, sent, status):
    summary = tmp_path / "summary.json"
    command = [sys.executable, "-c", STAGE, "--summary", str(summary), f"root={tmp_path}"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "working\n"
        assert json.loads(summary.read_text())["state"] == "running"
        process.send_signal(sent)
        time.sleep(0.1)
        if sent == signal.SIGTERM:
            process.send_signal(sent)  # a second signal does not end the clean-up early
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (status, "cleaned up\n"), err
    assert "run the same command again to continue" in err
    record = json.loads(summary.read_text())
    assert (record["state"], record["exit_code"], record["error"]["kind"]) == (
        "interrupted", status, "interrupted",
    )  # fmt: skip
    assert record["stages"][0]["state"] == "interrupted"

"""Two drivers at the same time: no harm, and equal results."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.shell.exits import Exit
from pipelines.pin import pin
from pipelines.tables import PREDICTIONS
from tests.conftest import flow_overrides, write_tickets

pytestmark = [pytest.mark.slow, pytest.mark.horovod]

CHECKOUT = Path(__file__).parents[2]
PATIENCE_SECONDS = 400


def run_two(module, folder, scratch, *words):
    """Two processes of one job, started together. Their summaries, by exit status."""
    command = [sys.executable, "-m", module, *flow_overrides(folder), *words]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    summaries = [scratch / f"{number}.json" for number in range(2)]
    drivers = [
        subprocess.Popen(
            [*command, "--summary", str(summary)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=CHECKOUT,
            env=env,
        )
        for summary in summaries
    ]
    said = [driver.communicate(timeout=PATIENCE_SECONDS)[0] for driver in drivers]
    records = [json.loads(summary.read_text()) for summary in summaries]
    assert [driver.returncode for driver in drivers] == [record["exit_code"] for record in records], said
    return sorted(records, key=lambda record: record["exit_code"])


def test_two_drivers_score_each_row_once(spark, flow, tmp_path):
    path = f"{tmp_path}/predictions"
    records = run_two("jobs.scoring", flow.folder, tmp_path, f"scoring.predictions={path}")
    assert [record["exit_code"] for record in records] == [Exit.DONE, Exit.DONE]
    expected = pin(flow.configs["scoring"].predictions)
    digest, num_rows = PREDICTIONS.digest(PREDICTIONS.read(spark, path))
    assert (digest, num_rows) == (expected.digest, expected.num_rows)
    tables = [record["stages"][0]["tables"][0] for record in records]
    assert tables[0]["version"] == tables[1]["version"]  # the second found what the first had written


def test_a_second_run_waits_for_no_one_and_harms_no_one(flow, tmp_path):
    write_tickets(tmp_path / "raw")
    done, refused = run_two("jobs.run", tmp_path, tmp_path)
    assert (done["exit_code"], refused["exit_code"]) == (Exit.DONE, Exit.RETRY)
    assert (refused["error"]["kind"], refused["error"]["retry"]) == ("busy", True)
    assert refused["seconds"] < 30
    undisturbed = {
        name: pin(f"{flow.folder}/lake/{name}").digest for name in ("documents", "sequences", "predictions")
    }
    assert {name: pin(f"{tmp_path}/lake/{name}").digest for name in undisturbed} == undisturbed
    assert {stage["state"] for stage in done["stages"]} == {"done"}

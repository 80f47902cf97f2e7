"""The driver is killed in each of the five stages and run again: nothing is lost, nothing is doubled."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from jobs import finetune
from pipelines.finetune.results import read_result
from pipelines.pin import pin
from pipelines.tables import DOCUMENTS, PREDICTIONS, QUARANTINE, SEQUENCES
from tests.conftest import flow_overrides, write_tickets

pytestmark = [pytest.mark.horovod, pytest.mark.slow]

CHECKOUT = Path(__file__).parents[2]
PATIENCE_SECONDS = 300


class Driver:
    """`jobs.run` as a separate process; keeps what it prints."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lines = folder, []
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jobs.run", *flow_overrides(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=CHECKOUT,
            env=environment,
        )
        self._reader = threading.Thread(
            target=lambda: self.lines.extend(iter(self._process.stdout.readline, "")), daemon=True
        )
        self._reader.start()

    def kill_when(self, happened) -> None:
        """SIGKILL the driver alone once `happened(self)`; then wait until its JVM and ranks have ended."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not happened(self):
            assert self._process.poll() is None, "ended before it could be killed:\n" + "".join(self.lines)
            assert time.monotonic() < deadline, "".join(self.lines)
            time.sleep(0.01)
        orphans = psutil.Process(self._process.pid).children(recursive=True)
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._close()
        _, alive = psutil.wait_procs(orphans, timeout=60)
        assert not alive, f"still running after the driver died: {alive}"

    def finish(self) -> str:
        assert self._process.wait(PATIENCE_SECONDS) == 0, "".join(self.lines)
        self._close()
        return "".join(self.lines)

    def _close(self) -> None:
        self._reader.join()
        self._process.stdout.close()

    def printed(self, text: str) -> bool:
        return any(text in line for line in self.lines)


def has_checkpoint(driver: Driver) -> bool:
    return any(driver.folder.glob("lake/finetune/*/checkpoints/step-00000010/complete.json"))


MOMENTS = {
    "corpus": lambda driver: driver.printed("writing documents"),
    "dataset": lambda driver: driver.printed("writing sequences"),
    "finetune": has_checkpoint,
    "registry": lambda driver: driver.printed("measuring version 1"),
    "scoring": lambda driver: driver.printed("scoring with"),
}


def find_stages_that_ran(output: str) -> list[str]:
    return [stage for stage in MOMENTS if f"{stage} done" in output]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A flow whose driver was killed once in each stage, then finished: folder and last output."""
    folder = tmp_path_factory.mktemp("killed")
    write_tickets(folder / "raw")
    for moment in MOMENTS.values():
        Driver(folder).kill_when(moment)
    return folder, Driver(folder).finish()


def test_tables_equal_those_of_an_undisturbed_run(spark, flow, killed):
    folder, _ = killed
    for table in (DOCUMENTS, QUARANTINE, SEQUENCES, PREDICTIONS):
        undisturbed, disturbed = (
            table.read(spark, f"{each}/lake/{table.name}") for each in (flow.folder, folder)
        )
        assert table.digest(disturbed) == table.digest(undisturbed), table.name


def test_final_weights_are_equal_with_one_run_and_version(flow, killed):
    folder, output = killed
    (result,) = [read_result(str(run.parent)) for run in (folder / "lake" / "finetune").glob("*/result.json")]
    assert (
        result["weights"] == read_result(finetune.plan(flow.configs["finetune"]).inputs[0].folder)["weights"]
    )
    assert "tickets 1" in output
    assert find_stages_that_ran(output) == ["scoring"]  # earlier drivers finished the stages above


def test_deleting_a_table_runs_its_stage_and_those_below(spark, killed):
    folder, _ = killed
    before = {name: pin(f"{folder}/lake/{name}").digest for name in ("documents", "sequences")}
    shutil.rmtree(folder / "lake" / "predictions")
    assert find_stages_that_ran(Driver(folder).finish()) == ["scoring"]
    shutil.rmtree(folder / "lake" / "sequences")
    assert find_stages_that_ran(Driver(folder).finish()) == ["dataset", "finetune", "registry", "scoring"]
    assert {name: pin(f"{folder}/lake/{name}").digest for name in before} == before

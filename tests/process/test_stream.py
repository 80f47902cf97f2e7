"""A stream as a process of its own: killed while it writes, and started again."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from pipelines.pin import pin
from tests.corpus.increments import (
    NEAR,
    describe_tables,
    list_overrides,
    list_screens,
    make_config,
    write_batch,
)
from tests.corpus.test_increment import describe_full_run

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[2]
PATIENCE_SECONDS = 240


class Stream:
    """`jobs.corpus --stream` as a process; keeps what it prints."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.lines: list[str] = []
        given = [*list_overrides(folder, "lake"), *overrides]
        command = [sys.executable, "-m", "jobs.corpus", "--stream", *given]
        self._process = subprocess.Popen(
            [*command, "corpus.stream_interval_seconds=0.5"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1"},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        self.lines.extend(iter(self._process.stdout.readline, ""))

    def wait_for(self, text: str, times: int = 1) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while "".join(self.lines).count(text) < times:
            assert self._process.poll() is None, "".join(self.lines)
            assert time.monotonic() < deadline, "".join(self.lines)
            time.sleep(0.01)

    def end(self, number: signal.Signals) -> int:
        """Send a signal; wait until the process and its JVM have ended. Returns the exit status."""
        children = psutil.Process(self._process.pid).children(recursive=True)
        self._process.send_signal(number)
        status = self._process.wait(PATIENCE_SECONDS)
        _, alive = psutil.wait_procs(children, timeout=60)
        assert not alive
        self._reader.join()
        self._process.stdout.close()
        return status


@pytest.mark.parametrize(
    "moment", ["near duplicates: comparing", pytest.param("writing documents", marks=pytest.mark.soak)]
)
def test_a_killed_stream_loses_and_doubles_nothing(spark, tmp_path, moment):
    knobs = [*list_screens(tmp_path), *NEAR] if moment.startswith("near") else []
    draw, config = random.Random(8), make_config(tmp_path, "lake", *knobs)
    (tmp_path / "raw" / "a").mkdir(parents=True)
    stream = Stream(tmp_path, *knobs)
    stream.wait_for("no file at")  # it waits for the first file
    write_batch(tmp_path, 0, draw)
    stream.wait_for("corpus done")
    write_batch(tmp_path, 1, draw)
    stream.wait_for(moment, times=2)
    stream.end(signal.SIGKILL)
    between = pin(config.documents).num_rows
    write_batch(tmp_path, 2, draw)
    again = Stream(tmp_path, *knobs)
    again.wait_for("corpus done")
    assert again.end(signal.SIGTERM) == 143
    found = describe_tables(spark, config)
    assert found == describe_full_run(spark, tmp_path, *knobs)
    assert found["documents"][1] > between > 0

"""Starts the process of a queued training: apart from the scheduler's terminal and signals, with a log."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.shell.queue_settings import Group
from jobs.shell.queue_worker import Order
from jobs.shell.redaction import redact
from pipelines.finetune.queue.state import Attempt, QueuedTraining
from pipelines.machine import cache_folder

CODE = Path(__file__).resolve().parents[2]
"""The folder above `jobs`, which the process must find too."""
VARIABLE = "DISTRIBUTARY_GROUP_SECRET_"
"""Start of the names of variables with secrets of a group. They are named as secrets, so that logs and runs
hide them."""


def log_file(queue: str, training: int, attempt: int) -> Path:
    """Where an attempt's process prints, on the machine of the scheduler that started it."""
    name = hashlib.sha256(queue.encode()).hexdigest()[:12]
    return Path(cache_folder()) / "queue" / name / f"{training:06d}-{attempt:03d}.log"


@dataclass(frozen=True, slots=True)
class Launcher:
    """See scheduler.Launch."""

    queue: str
    groups: Mapping[str, Group]

    def __call__(self, training: QueuedTraining, attempt: Attempt) -> "subprocess.Popen[bytes]":
        conf, secrets = _take_secrets(self._find_spark(training, attempt))
        order = Order(
            queue=self.queue,
            training=training.id,
            attempt=attempt.number,
            folder=training.folder,
            request=training.request,
            spark=conf,
            gpus=attempt.gpus,
        )
        path = os.pathsep.join(filter(None, [str(CODE), os.environ.get("PYTHONPATH")]))
        log = log_file(self.queue, training.id, attempt.number)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "jobs.shell.queue_worker", order.to_json()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **secrets, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # Ctrl-C in the scheduler's terminal is not for trainings
            )

    def _find_spark(self, training: QueuedTraining, attempt: Attempt) -> dict[str, str]:
        """The settings of its group. A standalone master gives an application all cores if it asks for no
        number."""
        conf = dict(self.groups[attempt.group].spark)
        if conf.get("spark.master", "").startswith("spark://"):
            conf.setdefault("spark.cores.max", str(training.needs.slots))
        return conf


def _take_secrets(conf: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The settings with references in place of secrets, and the variables to which they refer: everyone on a
    machine may read the arguments of a process."""
    kept, secrets = dict(conf), dict[str, str]()
    for name, value in conf.items():
        if redact(value, key=name) != value:
            variable = f"{VARIABLE}{len(secrets) + 1}"
            kept[name], secrets[variable] = f"${{oc.env:{variable}}}", value
    return kept, secrets

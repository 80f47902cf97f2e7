"""What several files of tests need of the command line."""

import pytest
from typer.testing import CliRunner

from jobs.run import STAGES
from jobs.shell.cli import build_program
from jobs.shell.settings import load

GROUPS = "{cpu: {slots: 4, memory_gb: 16.0}, gpu: {slots: 8, gpus: 2, memory_gb: 32.0}}"
"""What the commands of the queue have in tests."""


def check_all(**layers):
    """The sections of all jobs by name, checked."""
    return load(**layers).sections({name: stage.Config for name, stage in STAGES.items()})


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Runs a command of the queue: its exit status and what it prints."""
    monkeypatch.chdir(tmp_path)
    program, runner = build_program(), CliRunner()

    def run(*words):
        settings = ["root=lake", "queue.table=queue", f"queue.resources={GROUPS}"]
        given = {word.partition("=")[0] for word in words}
        others = [each for each in settings if each.partition("=")[0] not in given]
        answer = runner.invoke(program, ["queue", *words, *others])
        return answer.exit_code, answer.output

    return run

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from pyspark.errors import PythonException
from rich.console import Console
from typer.testing import CliRunner

from jobs import corpus
from jobs.run import STAGES, run, summary
from jobs.shell import command as stage
from jobs.shell import redaction
from jobs.shell.command import Outcome, Plan, Working, command, faults, tell, tell_plan

FROM_A_WORKER = """
  An exception was thrown from the Python worker:
Traceback (most recent call last):
  File "/x/clean.py", line 9, in clean
    {}["k"]
KeyError: 'k'

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/x/clean.py", line 11, in clean
    raise ValueError("a.csv: record 7 is too long; raise max_record_bytes") from e
    ^^^^^^^^^^^^^^^^
ValueError: a.csv: record 7 is too long; raise max_record_bytes
"""
FROM_THE_JVM = """An error occurred while calling o54.collectToPython.
: org.apache.spark.SparkException: Job aborted due to stage failure: Task 0 in stage 1.0 failed 4 times, most recent failure:
org.apache.spark.api.python.PythonException: Traceback (most recent call last):
  File "/x/clean.py", line 11, in clean
    raise OSError("disk is full")
OSError: disk is full

\tat org.apache.spark.api.python.BasePythonRunner.handlePythonException(PythonRunner.scala:581)
Driver stacktrace:
"""


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(redaction, "_known", set())


def told(capsys, error):
    with pytest.raises(typer.Exit), faults():
        raise error
    return capsys.readouterr().err.splitlines()[0]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            PythonException(FROM_A_WORKER),
            "error PythonException: ValueError: a.csv: record 7 is too long; raise max_record_bytes",
        ),
        (Exception(FROM_THE_JVM), "error Exception: OSError: disk is full"),
        (
            Exception("\n[TABLE_NOT_FOUND] no table\n== SQL ==\nSELECT"),
            "error Exception: [TABLE_NOT_FOUND] no table",
        ),
        (
            ValueError("root must be text\nTraceback (most recent call last):"),
            "error ValueError: root must be text",
        ),
    ],
)
def test_an_error_of_many_lines_is_told_by_the_one_that_says_what_happened(capsys, monkeypatch, error, line):
    monkeypatch.delenv("DISTRIBUTARY_DEBUG", raising=False)
    assert told(capsys, error) == line


def test_our_own_errors_are_told_whole_without_secrets(capsys, monkeypatch):
    monkeypatch.delenv("DISTRIBUTARY_DEBUG", raising=False)
    with pytest.raises(typer.Exit), faults():
        raise RuntimeError("rank 1 failed: token=hunter2\n\nTraceback on that rank:\n  x")
    error = capsys.readouterr().err
    assert error.startswith(
        "error RuntimeError: rank 1 failed: token=[redacted]\n\nTraceback on that rank:\n  x\n"
    )


def test_the_traceback_is_shown_on_demand(monkeypatch):
    monkeypatch.setenv("DISTRIBUTARY_DEBUG", "1")
    with pytest.raises(ValueError, match="all of it"), faults():
        raise ValueError("all of it")


def test_what_is_printed_stays_as_it_is_but_for_secrets(capsys):
    outcome = Outcome(
        stage="corpus", ran=True, why="a:100:b [red]", facts={"root": "s3://me:hunter2@b [bold] :100:"}
    )
    tell(outcome)
    tell_plan("corpus", Plan(fingerprint="", up_to_date=False, why="a:100:b [red] s3://me:hunter2@b"))
    Working("corpus").line("a:100:b [red] s3://me:hunter2@b")
    summary([outcome])
    printed = capsys.readouterr().out
    assert printed.count("a:100:b [red]") == 3
    assert printed.count("s3://[redacted]@b") == 4
    assert printed.count("[bold] :100:") == 2


def test_a_spinner_shows_brackets_as_they_are(monkeypatch):
    terminal = Console(file=io.StringIO(), force_terminal=True, emoji=False, width=200)
    monkeypatch.setattr(stage, "console", terminal)
    shown = Working("corpus")
    shown.say("starting Spark")
    first = terminal.file.getvalue()
    assert first.endswith("starting Spark\n")  # a line that the new JVM's words cannot spoil
    shown.say("reading a[bold]:100:")
    shown.stop()
    assert "reading a[bold]:100:" in terminal.file.getvalue().removeprefix(first)


def asked(name, main, *words):
    app = typer.Typer()
    app.command()(command(name, STAGES[name].Config, main, STAGES[name].plan))
    return CliRunner().invoke(app, words)


def started(config):
    return Outcome(stage="corpus", ran=True, why="started")


started.__module__ = corpus.__name__


def test_a_single_stage_refuses_faults_of_the_others_sections(monkeypatch):
    monkeypatch.delenv("DISTRIBUTARY_DEBUG", raising=False)
    refused = asked("corpus", started, "finetune.sed=1", "dataset.packing.sequence_lenght=3")
    assert refused.exit_code == 1
    assert "unknown key dataset.packing.sequence_lenght; did you mean sequence_length?" in refused.stderr
    assert "unknown key finetune.sed; did you mean seed?" in refused.stderr
    assert (
        asked("corpus", started, "finetune.seed=1", "corpus.rules.min_chars=2").stdout
        == "corpus done: started\n"
    )


def test_a_single_stage_refuses_a_fault_of_another_section_in_a_file(monkeypatch, tmp_path):
    monkeypatch.delenv("DISTRIBUTARY_DEBUG", raising=False)
    file = tmp_path / "mine.yaml"
    file.write_text("corpus: {rules: {min_chars: 2}}\nscoring: {alia: x}\n")
    assert (
        "unknown key scoring.alia; did you mean alias?"
        in asked("corpus", started, "--config", str(file)).stderr
    )


def test_run_refuses_faults_of_all_sections_at_once(monkeypatch):
    monkeypatch.delenv("DISTRIBUTARY_DEBUG", raising=False)
    app = typer.Typer()
    app.command()(run)
    refused = CliRunner().invoke(app, ["finetune.sed=1", "corpus.rule=1"])
    assert "unknown key corpus.rule; did you mean rules?; unknown key finetune.sed" in refused.stderr


def test_a_stage_alone_does_not_load_the_others_if_only_its_own_keys_are_given():
    program = (
        "import json, sys\nfrom jobs.shell.settings import load\nfrom jobs.shell.command import check_others\n"
        "check_others(load(overrides=['corpus.rules.min_chars=2', 'root=x', 'spark.ui.enabled=true']), 'corpus')\n"
        "print(json.dumps(sorted({'jobs.run', 'torch', 'mlflow'} & set(sys.modules))))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert json.loads(loaded.stdout) == []

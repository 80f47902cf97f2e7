"""The command line of a job: which faults it refuses, and how it shows errors."""

import pytest
import typer
from pyspark.errors import PythonException
from typer.testing import CliRunner

from jobs.run import STAGES, run
from jobs.shell import redaction
from jobs.shell.command import build_command, report_errors
from jobs.shell.exits import Exit
from jobs.shell.plan import Outcome

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
org.apache.spark.SparkException: Job aborted due to stage failure: Task 0 in stage 1.0 failed 4 times
org.apache.spark.api.python.PythonException: Traceback (most recent call last):
  File "/x/clean.py", line 11, in clean
    raise OSError("disk is full")
OSError: disk is full

\tat org.apache.spark.api.python.BasePythonRunner.handlePythonException(PythonRunner.scala:581)
Driver stacktrace:
"""
LAUNCHER_VARIABLES = (
    "PYSPARK_SUBMIT_ARGS", "PYSPARK_GATEWAY_PORT", "MASTER", "SPARK_CONF_DIR", "DATABRICKS_RUNTIME_VERSION",
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_secrets_and_no_debug(monkeypatch):
    monkeypatch.setattr(redaction, "_known", set())
    monkeypatch.delenv("DISTRIBUTARY_DEBUG", raising=False)


def show_error(capsys, error):
    with pytest.raises(typer.Exit), report_errors():
        raise error
    return capsys.readouterr().err


def invoke(function, *words):
    app = typer.Typer()
    app.command()(function)
    return CliRunner().invoke(app, words)


def invoke_stage(name, *words, main):
    return invoke(build_command(name, STAGES[name].Config, main, STAGES[name].plan), *words)


def start_corpus(config, check):
    return Outcome(stage="corpus", ran=True, why="started")


start_corpus.__module__ = STAGES["corpus"].__name__


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            PythonException(FROM_A_WORKER),
            "error PythonException: ValueError: a.csv: record 7 is too long; raise max_record_bytes",
        ),
        (Exception(FROM_THE_JVM), "error Exception: OSError: disk is full"),
        (
            Exception("\n[TABLE_NOT_FOUND] no table\n== SQL ==\n"),
            "error Exception: [TABLE_NOT_FOUND] no table",
        ),
        (ValueError("root must be text\nTraceback (most recent):"), "error ValueError: root must be text"),
    ],
)
def test_a_long_error_shows_the_line_that_explains_it(capsys, error, line):
    assert show_error(capsys, error).splitlines()[0] == line


def test_our_own_errors_are_whole_without_secrets(capsys):
    shown = show_error(capsys, RuntimeError("rank 1 failed: token=hunter2\n\nTraceback on that rank:\n  x"))
    assert shown.startswith(
        "error RuntimeError: rank 1 failed: token=[redacted]\n\nTraceback on that rank:\n  x\n"
    )


def test_the_traceback_is_shown_on_demand(monkeypatch):
    monkeypatch.setenv("DISTRIBUTARY_DEBUG", "1")
    with pytest.raises(ValueError, match="all of it"), report_errors():
        raise ValueError("all of it")


def test_a_stage_refuses_unknown_keys_of_other_sections():
    refused = invoke_stage("corpus", "finetune.sed=1", "dataset.packing.sequence_lenght=3", main=start_corpus)
    assert refused.exit_code == Exit.CONFIGURATION
    assert "unknown key dataset.packing.sequence_lenght; did you mean sequence_length?" in refused.stderr
    assert "unknown key finetune.sed; did you mean seed?" in refused.stderr
    accepted = invoke_stage("corpus", "finetune.seed=1", "corpus.rules.min_chars=2", main=start_corpus)
    assert accepted.stdout == "corpus done: started\n"


def test_a_stage_names_the_file_of_an_unknown_key(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("corpus: {rules: {min_chars: 2}}\nscoring: {alia: x}\n")
    refused = invoke_stage("corpus", "--config", str(file), main=start_corpus)
    assert "mine.yaml: unknown key scoring.alia; did you mean alias?" in refused.stderr


def test_run_refuses_faults_of_all_sections_at_once():
    refused = invoke(run, "finetune.sed=1", "corpus.rule=1", "scoring.batch_size=0")
    assert "unknown key finetune.sed; did you mean seed?" in refused.stderr
    assert "unknown key corpus.rule; did you mean rules?" in refused.stderr
    assert "scoring.batch_size should be greater than or equal to 1, got 0" in refused.stderr


@pytest.fixture
def cluster(monkeypatch, tmp_path):
    """`--env cluster` on a machine where no launcher, file or variable names a master."""
    pytest.importorskip("pyspark")
    monkeypatch.setenv("DISTRIBUTARY_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))
    monkeypatch.setattr("pipelines.spark._find_session", lambda: None)  # the session of other tests
    return tmp_path


def test_cluster_without_a_master_is_refused(cluster):
    refused = invoke_stage("corpus", "--env", "cluster", main=start_corpus)
    assert refused.exit_code == Exit.CONFIGURATION
    assert "spark.master is empty" in refused.stderr
    assert "spark-submit --master URL" in refused.stderr
    assert "spark.master is empty" in invoke(run, "--env", "cluster", "--dry-run").stderr


@pytest.mark.parametrize("given", ["key", "submit", "file", "variable"])
def test_cluster_takes_a_master_from_any_launcher(cluster, monkeypatch, given):
    if given == "submit":
        monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", "--master yarn pyspark-shell")
    elif given == "variable":
        monkeypatch.setenv("MASTER", "spark://host:7077")
    elif given == "file":
        (cluster / "spark-defaults.conf").write_text("spark.master yarn\n")
    words = ["spark.master=yarn"] if given == "key" else []
    accepted = invoke_stage("corpus", "--env", "cluster", *words, main=start_corpus)
    assert accepted.stdout == "corpus done: started\n", accepted.stderr


def test_a_session_without_a_master_is_refused(cluster, monkeypatch):
    from pipelines.spark import session

    monkeypatch.setattr("pipelines.spark.check_java", lambda: None)
    with pytest.raises(ValueError, match=r"spark.master is empty.*spark-submit --master URL"):
        session("test", {"spark.master": ""})

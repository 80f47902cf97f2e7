"""What commands print: text as it is, without secrets."""

import io
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from rich.console import Console

from jobs.shell import progress, redaction
from jobs.shell.display import display_locations, display_outcome, display_plan, display_summary
from jobs.shell.plan import Outcome, Plan
from jobs.shell.progress import Progress, describe_speed, describe_stage, follow_tasks, show_progress
from jobs.shell.settings import load
from tests.processes import wait_until


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch):
    monkeypatch.setattr(redaction, "_known", set())


def test_printed_text_stays_as_it_is_except_secrets(capsys):
    text = "a:100:b [red] s3://me:hunter2@b"
    outcome = Outcome(
        stage="corpus", ran=True, why="a:100:b [red]", facts={"root": "s3://me:hunter2@b [bold] :100:"}
    )
    display_outcome(outcome)
    display_plan("corpus", Plan(fingerprint="", up_to_date=False, why=text))
    Progress("corpus").print(text)
    display_summary([outcome])
    printed = capsys.readouterr().out
    assert printed.count("a:100:b [red]") == 3
    assert printed.count("s3://[redacted]@b") == 4
    assert printed.count("[bold] :100:") == 2


def test_a_spinner_shows_brackets_as_they_are(monkeypatch):
    terminal = Console(file=io.StringIO(), force_terminal=True, emoji=False, width=200)
    monkeypatch.setattr(progress, "console", terminal)
    shown = Progress("corpus")
    shown.phase("starting Spark")
    first = terminal.file.getvalue()
    assert first.endswith("starting Spark\n")  # a line of its own, which output of the new JVM cannot damage
    shown.phase("reading a[bold]:100:")
    shown.stop()
    assert "reading a[bold]:100:" in terminal.file.getvalue().removeprefix(first)


def test_a_stage_that_ends_at_once_prints_no_progress(capsys):
    with show_progress("corpus"):
        pass
    assert capsys.readouterr().out == ""


def test_a_quiet_stage_prints_a_line_after_a_while(capsys, monkeypatch):
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    with show_progress("corpus") as shown:
        shown.update("step 3/9")
    assert "step 3/9" in capsys.readouterr().out


def test_the_end_of_a_run_shows_no_password(capsys):
    overrides = ["root=s3://me@bucket/b", "tracking.uri=postgresql://me:hunter2@host/db"]
    display_locations(load(overrides=overrides))
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["tables    s3://[redacted]@bucket/b", "MLflow    postgresql://[redacted]@host/db"]


def test_make_ui_is_mentioned_for_its_own_store_only(capsys):
    display_locations(load())
    assert "make ui" in capsys.readouterr().out
    display_locations(load(overrides=["tracking.uri=sqlite:///elsewhere/mlflow.db"]))
    assert "make ui" not in capsys.readouterr().out


def test_speed_shows_share_rate_and_rest():
    # 3 of 4 tasks in 6 s: 150 of 200 MB, so 25 MB/s and a third of the time again
    assert describe_speed(3, 4, 6.0, 200, "MB") == "75%, 25 MB/s, 2 s left"
    assert describe_speed(3, 4, 6.0, 0, "") == "75%, 2 s left"
    assert describe_speed(0, 4, 6.0, 200, "MB") == ""
    assert describe_speed(1, 1, 2.0, 5_000, "documents") == "100%, 2,500 documents/s, 0 s left"


def test_the_time_of_a_stage_starts_when_it_is_seen():
    started = {}
    assert describe_stage(None, started, 100.0, 200, "MB") == ""  # the driver plans; no stage runs
    assert describe_stage((0, 0, 4), started, 160.0, 200, "MB") == ""
    # 1 of 4 tasks in 10 s: 50 of 200 MB, and three times as long again. Spark's first stage has the number 0.
    assert describe_stage((0, 1, 4), started, 170.0, 200, "MB") == "25%, 5 MB/s, 30 s left"
    assert describe_stage((1, 2, 4), started, 180.0, 200, "MB") == ""
    assert describe_stage((1, 4, 8), started, 190.0, 0, "") == "50%, 10 s left"
    assert describe_stage((2, 1, 1), {2: 0.0}, 9.0, 0, "") == ""  # one task: nothing is known of the rest


def test_the_speed_of_a_phase_ends_with_it(capsys, monkeypatch):
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    shown = Progress("corpus")
    shown.phase("reading")
    reading = shown.num_phases
    shown.show_speed(reading, "50%")
    shown.phase("looking for pairs")
    shown.show_speed(reading, "51%")  # the thread that measures is late
    lines = [line.split(" s  ")[1] for line in capsys.readouterr().out.splitlines()]
    assert lines.count("reading: 50%") == 1
    assert lines[-1] == "looking for pairs"
    assert not [line for line in lines if "51%" in line]


def test_a_phase_within_another_shows_its_own_text_and_no_rate(spark, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    gate, printed = tmp_path / "gate", []

    def is_shown(line):
        printed.extend(capsys.readouterr().out.splitlines())
        return any(re.search(line, each) for each in printed)

    def wait_in_second_task(number, rows):
        if number == 1:
            wait_until(gate.exists)
        return rows

    halves = spark.sparkContext.parallelize([1, 2], 2).mapPartitionsWithIndex(wait_in_second_task)
    shown = Progress("corpus")
    with ThreadPoolExecutor(1) as pool, follow_tasks(shown, spark, "reading s", 6_000_000, "MB"):
        counted = pool.submit(halves.count)
        try:
            wait_until(lambda: is_shown(r"reading s: 50%, [1-9][\d,]* MB/s, \d+ s left$"))
            shown.phase("near duplicates: computing signatures")
            wait_until(lambda: is_shown(r"near duplicates: computing signatures: 50%, \d+ s left$"))
        finally:
            gate.touch()
        assert counted.result() == 2
    since = next(n for n, line in enumerate(printed) if "computing signatures" in line)
    assert not [line for line in printed[since:] if "reading" in line or "MB" in line]

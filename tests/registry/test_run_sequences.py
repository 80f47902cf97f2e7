"""What the run of a training shows of its sequences."""

import json

import pytest
from mlflow import MlflowClient, artifacts

from pipelines.dataset.report.numbers import write_numbers
from pipelines.dataset.report.page import render
from pipelines.pin import Pin
from pipelines.registry.runs.dataset import log_sequences
from pipelines.registry.runs.tracker import Tracker
from pipelines.report import write_report
from tests.dataset.report_content import make_content

COUNTS = {"sequences": 8, "tokens": 60, "cut_tokens": 7, "continued": 3, "targets": 49}


def make_pin(folder, **facts):
    """That of `make_content`, whose commit says that dataset wrote a report."""
    own = {"task": "language_modelling", "splits": {"train": COUNTS}, "sequence_length": 8, "labels": []}
    own |= {"report": f"{folder}/s.html"}
    values = {"path": f"{folder}/sequences", "table_id": "t", "num_rows": 10, "fingerprint": "a" * 32}
    return Pin(table="sequences", version=3, digest="cd" * 16, facts={**own, **facts}, **values)


def write(folder, content, numbers=None):
    write_report(f"{folder}/s.html", render(content), numbers or write_numbers(content))


def list_files(tracker):
    client = MlflowClient()
    return {
        item.path
        for folder in (None, "pictures")
        for item in client.list_artifacts(tracker.run_id, folder)
        if not item.is_dir
    }


def log(experiment, pinned):
    tracker = Tracker(experiment, "abc")
    log_sequences(tracker, pinned)
    return tracker


def test_the_run_has_the_report_of_its_sequences(experiment, tmp_path):
    write(tmp_path, make_content())
    tracker = log(experiment, make_pin(tmp_path))
    pictures = {f"pictures/sequences{name}.png" for name in ("", "_lengths", "_sources")}
    assert list_files(tracker) == {"sequences.html", "sequences.json", *pictures}
    page = artifacts.load_text(f"runs:/{tracker.run_id}/sequences.html")
    assert page == (tmp_path / "s.html").read_text()


def test_a_run_without_a_report_shows_what_the_commit_says(experiment, tmp_path, caplog):
    assert list_files(log(experiment, make_pin(tmp_path, report=None))) == {"pictures/sequences.png"}
    assert "no report" not in caplog.text
    tracker = log(experiment, make_pin(tmp_path, report=f"{tmp_path}/gone.html"))
    assert list_files(tracker) == {"pictures/sequences.png"}
    assert f"run {tracker.run_id}: no report of the sequences: {tmp_path}/gone.html or its" in caplog.text


def test_a_report_of_another_version_is_left_out_with_a_warning(experiment, tmp_path, caplog):
    other = make_content()
    write(tmp_path, make_content(tables=[*other.tables[1:]]))  # about documents
    assert list_files(log(experiment, make_pin(tmp_path))) == {"pictures/sequences.png"}
    assert f"{tmp_path}/s.html or its numbers are missing, or about another version" in caplog.text


@pytest.mark.parametrize("changes", [{"format": 2}, {"sources": 7}])
def test_a_report_that_cannot_be_read_gives_a_warning(experiment, tmp_path, caplog, changes):
    content = make_content()
    write(tmp_path, content, json.dumps({**json.loads(write_numbers(content)), **changes}))
    tracker = log(experiment, make_pin(tmp_path))
    assert f"run {tracker.run_id}: no report of the sequences from {tmp_path}/s.html (numbers" in caplog.text
    assert list_files(tracker) == {"pictures/sequences.png"}

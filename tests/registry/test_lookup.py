"""Answers that are kept while a SQLite store is unchanged."""

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from pipelines.registry import lookup
from pipelines.registry.lookup import Lookup, VersionRef, answers_file, read_state
from pipelines.registry.runs.tracker import Tracker
from pipelines.registry.versions.aliases import promote
from tests.registry.conftest import register

CHECKOUT = Path(__file__).resolve().parents[2]
WITHOUT_MLFLOW = """
import sys
from pipelines.registry.lookup import Lookup
print(Lookup(sys.argv[1]).find_finished_run(sys.argv[2], "abc"), "mlflow" in sys.modules)
"""


@pytest.fixture
def uri(connected):
    return f"sqlite:///{connected}/mlflow.db"


@pytest.fixture
def asked(monkeypatch):
    """Names of the functions that were called on the store, in order."""
    calls = []
    for name in ("search_runs", "get_run", "get_model_version", "get_registered_model"):
        real = getattr(MlflowClient, name)

        def spy(*arguments, _real=real, _name=name, **options):
            calls.append(_name)
            return _real(*arguments, **options)

        monkeypatch.setattr(MlflowClient, name, spy)
    return calls


def test_an_unchanged_store_is_asked_once(experiment, uri, asked):
    run_id = Tracker(experiment, "abc").run_id
    MlflowClient().set_terminated(run_id)
    asked.clear()
    assert Lookup(uri).find_finished_run(experiment, "abc") == run_id
    assert asked == ["search_runs"]
    assert Lookup(uri).find_finished_run(experiment, "abc") == run_id
    assert asked == ["search_runs"]


def test_any_change_of_the_store_is_seen(experiment, uri):
    tracker, questions = Tracker(experiment, "abc"), Lookup(uri)
    assert questions.find_finished_run(experiment, "abc") is None
    assert questions.read_run_status(tracker.run_id) == "RUNNING"
    tracker.finish()
    assert questions.find_finished_run(experiment, "abc") == tracker.run_id
    assert questions.read_run_status(tracker.run_id) == "FINISHED"
    MlflowClient().delete_run(tracker.run_id)
    assert questions.find_finished_run(experiment, "abc") is None
    assert questions.read_run_status(tracker.run_id) == "deleted"
    assert questions.read_run_status("0" * 32) == "unknown"


def test_versions_and_verdicts_are_answered(new_run, model_folders, model_name, uri, asked):
    run_id, questions = new_run(), Lookup(uri)
    with pytest.raises(LookupError, match=f"no registered model '{model_name}'"):
        questions.find_version(model_name, "champion")
    register(run_id, model_folders[0], model_name)
    promote(model_name, 1)
    client = MlflowClient()
    client.set_registered_model_tag(model_name, "distributary_gate", "f0")
    client.set_model_version_tag(model_name, "1", "distributary_gate", "f0")
    client.set_model_version_tag(model_name, "1", "distributary_verdict", "better")
    asked.clear()
    for _ in range(2):
        assert questions.find_version(model_name, "champion") == VersionRef(model_name, 1, run_id)
        assert questions.find_verdict(model_name, run_id, made_from="f0") == (1, "better")
        assert questions.find_verdict(model_name, run_id, made_from="f1") is None
        assert questions.read_last_verdict(model_name) == "f0"
        num_asked = len(asked)
    questions.find_version(model_name, "champion")
    assert num_asked == len(asked) > 0


def test_a_kept_answer_needs_no_mlflow(experiment, uri):
    tracker = Tracker(experiment, "abc")
    tracker.finish()
    assert Lookup(uri).find_finished_run(experiment, "abc") == tracker.run_id
    command = [sys.executable, "-c", WITHOUT_MLFLOW, uri, experiment]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, check=False)
    assert (done.stdout, done.stderr) == (f"{tracker.run_id} False\n", "")


def test_an_answer_during_a_change_is_not_kept(experiment, uri, connected, monkeypatch):
    tracker, questions = Tracker(experiment, "abc"), Lookup(uri)

    def finish_while_asked(*arguments, **options):
        found = search(*arguments, **options)
        tracker.finish()  # another driver, after the store has answered
        return found

    search = MlflowClient.search_runs
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "search_runs", finish_while_asked)
        assert questions.find_finished_run(experiment, "abc") is None
    file = answers_file(connected / "mlflow.db")
    assert experiment not in (file.read_text() if file.exists() else "")
    assert questions.find_finished_run(experiment, "abc") == tracker.run_id
    assert experiment in file.read_text()


@pytest.mark.parametrize("content", ["", "[]", '{"state": 1}', '{"answers": {}}', "not json"])
def test_a_damaged_file_of_answers_is_ignored(experiment, uri, connected, content):
    tracker = Tracker(experiment, "abc")
    tracker.finish()
    answers_file(connected / "mlflow.db").write_text(content)
    assert Lookup(uri).find_finished_run(experiment, "abc") == tracker.run_id


def test_answers_that_cannot_be_written_are_no_error(experiment, uri, connected, monkeypatch):
    tracker = Tracker(experiment, "abc")
    tracker.finish()
    monkeypatch.setattr(lookup, "answers_file", lambda path: connected / "absent" / "answers.json")
    assert Lookup(uri).find_finished_run(experiment, "abc") == tracker.run_id
    assert mlflow.get_run(tracker.run_id).info.status == "FINISHED"


def test_the_state_follows_the_files_of_the_database(tmp_path):
    path = tmp_path / "mlflow.db"
    assert read_state(path) is None
    path.write_bytes(b"SQLite format 3\0" + bytes(100))
    states = [read_state(path)]
    info = path.stat()
    content = bytearray(path.read_bytes())
    content[27] += 1  # the counter of transactions, within one tick of the clock
    path.write_bytes(content)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    states.append(read_state(path))
    (tmp_path / "mlflow.db-wal").write_bytes(b"a transaction")
    states.append(read_state(path))
    (tmp_path / "mlflow.db-wal").write_bytes(b"two transactions")
    states.append(read_state(path))
    assert len(set(map(tuple, states))) == 4
    (tmp_path / "mlflow.db-journal").touch()
    assert read_state(path) is None

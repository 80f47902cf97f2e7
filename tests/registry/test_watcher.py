"""The watcher with real event files; storage that does not give a file just now is a folder in its place."""

import json

import pytest

from jobs import watcher
from jobs.shell.progress import Progress
from jobs.watcher import Watcher

STEP = {
    "kind": "step",
    "loss": 1.0,
    "gradient_norm": 1.0,
    "learning_rate": 0.1,
    "num_tokens": 10,
    "seconds": 1.0,
    "total_steps": 9,
}


@pytest.fixture
def events(tmp_path):
    (tmp_path / "events").mkdir()
    return tmp_path / "events"


def write(file, *written):
    file.write_text("".join(json.dumps(event) + "\n" for event in written))


def watching(events, points):
    return Watcher(
        str(events.parent),
        Progress("finetune"),
        lambda step, metrics: points.append((step, sorted(metrics)[0])),
    )


def losses(points):
    return [step for step, _ in points]


def test_events_before_a_fault_of_storage_are_kept_and_those_after_it_come_later(events, caplog):
    points = []
    watch = watching(events, points)
    write(events / "1.jsonl", {**STEP, "step": 1}, {**STEP, "step": 2})
    (events / "2.jsonl").mkdir()
    watch.look()
    assert losses(points) == [1, 2]
    assert "cannot be read just now" in caplog.text
    (events / "2.jsonl").rmdir()
    write(events / "2.jsonl", {**STEP, "step": 3})
    watch.look()
    assert losses(points) == [1, 2, 3]


def test_the_last_events_are_tried_again_and_missing_ones_are_an_error(events, monkeypatch):
    points, pauses = [], []
    watch = watching(events, points)
    (events / "1.jsonl").mkdir()
    monkeypatch.setattr(watcher.time, "sleep", pauses.append)
    with pytest.raises(
        OSError,
        match=r"last events of a finished training cannot be read \(.*1\.jsonl.*run again when they can",
    ):
        watch.drain()
    assert len(pauses) == watcher.DRAIN_TRIES - 1

    def repair(_):
        if (events / "1.jsonl").is_dir():
            (events / "1.jsonl").rmdir()
            write(events / "1.jsonl", {**STEP, "step": 1})

    monkeypatch.setattr(watcher.time, "sleep", repair)
    watch.drain()
    assert losses(points) == [1]


def test_a_warning_is_a_line_that_stays_and_no_metric(events, capsys):
    points = []
    write(
        events / "1.jsonl",
        {"kind": "note", "step": 1, "text": "builds"},
        {"kind": "warning", "step": 0, "text": "an idle GPU"},
        {"kind": "evaluation", "step": 2, "split": "validation", "accuracy": 0.5},
    )
    watching(events, points).look()
    assert points == [(2, "validation/accuracy")]
    assert "step 0: an idle GPU" in capsys.readouterr().out

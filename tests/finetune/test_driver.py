"""The watcher on real event files; a file that storage cannot give now is a folder in its place."""

import json
from types import SimpleNamespace

import pytest

from pipelines.finetune import driver
from pipelines.finetune.driver import Listeners, Watcher

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


class Heard:
    """What the listeners were given."""

    def __init__(self, require_lease=lambda: None):
        self.points, self.progress, self.lines = [], [], []
        self.listeners = Listeners(
            lambda step, metrics: self.points.append((step, metrics)),
            self.progress.append,
            self.lines.append,
            require_lease,
        )

    def steps(self):
        return [step for step, _ in self.points]


def write(file, *events):
    file.write_text("".join(json.dumps(event) + "\n" for event in events))


def watch(events, heard):
    return Watcher(str(events.parent), heard.listeners)


def test_a_storage_fault_delays_events_and_loses_none(events, caplog):
    heard = Heard()
    watcher = watch(events, heard)
    write(events / "1.jsonl", {**STEP, "step": 1}, {**STEP, "step": 2})
    (events / "2.jsonl").mkdir()
    watcher.look()
    assert heard.steps() == [1, 2]
    assert "cannot be read now" in caplog.text
    (events / "2.jsonl").rmdir()
    write(events / "2.jsonl", {**STEP, "step": 3})
    watcher.look()
    assert heard.steps() == [1, 2, 3]


def test_the_last_events_must_be_readable(events, monkeypatch):
    heard, pauses = Heard(), []
    watcher = watch(events, heard)
    (events / "1.jsonl").mkdir()
    # Not time.sleep itself: threads of other tests use it too.
    monkeypatch.setattr(driver, "time", SimpleNamespace(sleep=pauses.append))
    with pytest.raises(
        OSError, match=r"last events of a finished training cannot be read \(.*1\.jsonl.*run again"
    ):
        watcher.drain()
    assert len(pauses) == driver.DRAIN_TRIES - 1

    def repair(_):
        if (events / "1.jsonl").is_dir():
            (events / "1.jsonl").rmdir()
            write(events / "1.jsonl", {**STEP, "step": 1})

    monkeypatch.setattr(driver, "time", SimpleNamespace(sleep=repair))
    watcher.drain()
    assert heard.steps() == [1]


def test_each_kind_goes_to_its_listener(events):
    heard = Heard()
    write(
        events / "1.jsonl",
        {"kind": "note", "step": 1, "text": "building"},
        {"kind": "warning", "step": 0, "text": "an idle GPU"},
        {"kind": "evaluation", "step": 2, "split": "validation", "accuracy": 0.5},
        {**STEP, "step": 3, "num_tokens": 30, "seconds": 2.0},
    )
    watch(events, heard).look()
    assert heard.points == [
        (2, {"validation/accuracy": 0.5}),
        (
            3,
            {
                "train/loss": 1.0,
                "train/gradient_norm": 1.0,
                "train/learning_rate": 0.1,
                "train/tokens_per_second": 15.0,
            },
        ),
    ]
    assert heard.lines == ["step 0: an idle GPU", "step 2: validation: accuracy 0.5000"]
    assert heard.progress == ["building", "step 3/9: loss 1.0000, 15 tokens/s, about 0 min 12 s left"]


def test_a_realised_mixture_becomes_shares_of_the_tokens(events):
    heard = Heard()
    mix = {"kind": "mixture", "first_step": 0, "sequences": {"web": 3, "code": 1}}
    write(events / "1.jsonl", {**mix, "step": 1000, "tokens": {"web": 75, "code": 25}})
    watch(events, heard).look()
    assert heard.points == [(1000, {"mixture/web": 0.75, "mixture/code": 0.25})]


def test_a_lost_lease_stops_the_watch_before_anything_is_logged(events):
    def lost():
        raise RuntimeError("another driver has taken over")

    heard = Heard(lost)
    write(events / "1.jsonl", {**STEP, "step": 1})
    with pytest.raises(RuntimeError, match="another driver"):
        watch(events, heard).look()
    assert heard.points == []

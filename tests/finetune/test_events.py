import pytest

from pipelines.finetune import events
from pipelines.finetune.events import EventReader, EventWriter
from pipelines.storage import Folder


def test_a_resumed_training_repeats_no_event(tmp_path):
    folder = Folder(str(tmp_path))
    reader = EventReader(folder)
    first = EventWriter(folder)
    for step in (1, 2, 3):
        first.write("step", step=step, loss=1.0 / step)
    first.close()
    assert [event["step"] for event in reader.new()] == [1, 2, 3]
    again = EventWriter(folder)  # continues from a checkpoint of step 2
    for step in (3, 4):
        again.write("step", step=step, loss=1.0 / step)
    again.write("evaluation", step=4, split="validation", accuracy=0.5)
    again.write("note", step=4, text="进度")
    again.close()
    assert [(event["kind"], event["step"]) for event in reader.new()] == [
        ("step", 4),
        ("evaluation", 4),
        ("note", 4),
    ]
    assert list(reader.new()) == []
    assert len(list(EventReader(folder).new())) == 6


def test_a_storage_fault_loses_no_read_event(tmp_path):
    folder = Folder(str(tmp_path))
    for step in (1, 2):
        writer = EventWriter(folder)
        writer.write("step", step=step)
        writer.close()
    second = sorted(tmp_path.iterdir())[1]
    content = second.read_bytes()
    second.unlink()
    second.mkdir()  # reading it fails
    reader, read = EventReader(folder), []
    with pytest.raises(OSError, match=second.name):
        read.extend(event["step"] for event in reader.new())
    second.rmdir()
    second.write_bytes(content)
    assert [event["step"] for event in reader.new()] == [2]


class BrokenFolder:
    """A folder whose disk can be full."""

    def __init__(self, folder):
        self.folder, self.is_broken, self.path, self.num_writes = folder, True, folder.path, 0

    def write(self, name, content):
        self.num_writes += 1
        if self.is_broken:
            raise OSError(28, "No space left on device")
        self.folder.write(name, content)


@pytest.fixture
def broken(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "MIN_FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(events, "MAX_FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(events, "CLOSE_PAUSE_SECONDS", 0.0)
    return BrokenFolder(Folder(str(tmp_path)))


def test_a_failed_write_is_tried_again_with_the_next(broken, caplog):
    writer = EventWriter(broken)
    writer.write("step", step=1)
    assert "1 training events cannot be written now" in caplog.text
    broken.is_broken = False
    writer.write("step", step=2)
    assert [event["step"] for event in EventReader(broken.folder).new()] == [1, 2]


def test_before_a_checkpoint_events_must_be_on_storage(broken):
    writer = EventWriter(broken)
    writer.write("step", step=1)
    with pytest.raises(OSError, match="No space left"):
        writer.close()
    assert broken.num_writes == 1 + events.CLOSE_TRIES
    broken.is_broken = False
    writer.close()
    assert [event["step"] for event in EventReader(broken.folder).new()] == [1]


def test_pending_events_are_bounded_and_notes_go_first(broken, monkeypatch):
    monkeypatch.setattr(events, "MAX_PENDING", 4)
    monkeypatch.setattr(events, "NOTE_SECONDS", 0.0)
    writer = EventWriter(broken)
    for step in (1, 2, 3):
        writer.note("busy", step=step)
        writer.write("step", step=step)
    writer.write("step", step=4)
    with pytest.raises(
        RuntimeError, match=r"5 training events wait to be written to .*; repair the storage and run again"
    ):
        writer.write("step", step=5)

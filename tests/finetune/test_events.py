import pytest

from pipelines.finetune.events import EventReader, EventWriter
from pipelines.storage import Folder


def test_events_arrive_once_and_a_resumed_training_repeats_none(tmp_path):
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


def test_a_fault_of_storage_loses_no_event(tmp_path):
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

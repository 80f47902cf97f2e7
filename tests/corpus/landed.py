"""Files of a Kafka topic as the stage lands them, and what its reader makes of them; no broker."""

from pathlib import Path

from pipelines.corpus.kafka.files import Message, fill_segment, name_file
from pipelines.corpus.listing import list_files
from pipelines.corpus.readers.files import name_file as name_in_documents
from pipelines.corpus.source import Source
from tests.corpus.reading import Read, read_bytes


def make_source(path, topic="chats", options=None, **knobs) -> Source:
    knobs = {"fields": {"text": "kafka.value"}, **knobs}
    return Source(
        name="s", path=str(path), format="kafka", options={"topic": topic, **(options or {})}, **knobs
    )


def make_message(offset: int, value: bytes | None = b"text", **knobs) -> Message:
    return Message(
        **{"offset": offset, "timestamp_ms": 0, "key": None, "value": value, "headers": [], **knobs}
    )


def write_file(path, partition: int, messages: list[Message], stop: int, topic="chats") -> Path:
    """One file that begins with the first message."""
    segment = fill_segment(iter(messages), stop)
    file = Path(path) / topic / name_file(partition, messages[0].offset)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(segment.content)
    return file


def read_source(source: Source) -> list[tuple[str, Read]]:
    """The records of all files of the source, each with the name of the file in documents."""
    return [
        (name_in_documents(source, file.relative), record)
        for file in list_files(source)
        for record in read_bytes(Path(file.path).read_bytes(), source, path=file.path)
    ]


def list_texts(source: Source) -> dict[str, list[tuple[int, str]]]:
    """Partition -> (offset, text) of its documents, in the order of the files."""
    found: dict[str, list[tuple[int, str]]] = {}
    for name, record in read_source(source):
        assert record.columns is not None, record.reason
        found.setdefault(name.rpartition("/")[2], []).append((record.offset, record.columns.text))
    return found

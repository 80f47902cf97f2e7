"""Records of Kafka from landed files: fields, ids and what becomes of broken ones. No broker."""

import json

import pytest
from pydantic import TypeAdapter

from jobs import corpus
from jobs.shell import settings as configuration
from pipelines.corpus.ids import doc_id
from pipelines.corpus.listing import NoFilesError, list_files
from pipelines.corpus.quarantine import choose_remedy
from pipelines.corpus.readers import kafka
from pipelines.corpus.readers.files import name_file
from pipelines.corpus.readers.mapping import Mapper
from pipelines.corpus.readers.rows import make_position
from pipelines.corpus.rules import leave_out_unset
from tests.corpus.landed import make_message, make_source, read_source, write_file
from tests.corpus.reading import read_bytes, read_in_slices


def read_one(tmp_path, message, **knobs):
    write_file(tmp_path, 3, [message], message.offset + 1)
    ((name, record),) = read_source(make_source(tmp_path, **knobs))
    assert (name, record.offset, record.line) == ("chats/3", message.offset, None)
    return record


def test_text_value_keeps_key_time_and_headers(tmp_path):
    headers = [("trace", b"7"), ("raw", b"\xff"), ("none", None), ("empty", b"")]
    message = make_message(8, "h\u00e9".encode(), key=b"k", timestamp_ms=1_700_000_000_123, headers=headers)
    record = read_one(tmp_path, message)
    assert record.columns.text == "h\u00e9"
    metadata = record.columns.metadata
    assert (metadata["key"], metadata["timestamp"]) == ("k", "2023-11-14T22:13:20.123Z")
    assert json.loads(metadata["headers"]) == [["trace", "7"], ["raw", "0xff"], ["none", None], ["empty", ""]]


def test_missing_metadata_is_left_out(tmp_path):
    assert read_one(tmp_path, make_message(0, timestamp_ms=None)).columns.metadata is None


def test_json_value_goes_through_the_mapping(tmp_path):
    value = json.dumps({"body": "hello", "id": 12345678901234567890, "kind": "a"}).encode()
    fields = {"text": "body", "key": "id", "label": "kind"}
    metadata = {"where": "kafka.partition", "at": "kafka.offset", "by": "kafka.key"}
    record = read_one(tmp_path, make_message(8, value, key=b"\x80\x01"), fields=fields, metadata=metadata)
    assert record.columns[:3] == ("12345678901234567890", "hello", "a")
    assert record.columns.metadata == {"where": "3", "at": "8", "by": "0x8001"}


@pytest.mark.parametrize(
    ("value", "fields", "kind"),
    [
        (None, "kafka.value", "tombstone"),
        (b"\xff\xfe", "kafka.value", "invalid UTF-8"),
        (b"a\0b", "kafka.value", "NUL"),
        (b"{", "body", "invalid JSON"),
        (b"[]", "body", "not an object"),
        (b"\xff", "body", "invalid UTF-8"),
        (b"{}", "body", "text"),
        (b"123456", "kafka.value", "too long"),
    ],
)
def test_broken_value_is_one_quarantine_row(tmp_path, value, fields, kind):
    write_file(tmp_path, 3, [make_message(7, value), make_message(9, b'{"body": "b"}')], 10)
    source = make_source(tmp_path, fields={"text": fields}, max_record_bytes=5 if kind == "too long" else 99)
    (name, broken), (_, good) = read_source(source)
    assert (name, broken.offset, broken.raw) == ("chats/3", 7, value or b"")
    assert broken.reason.partition(":")[0] == kind
    assert choose_remedy(kind) != choose_remedy("unheard of")
    assert good.offset == 9
    assert (good.columns is not None) == (kind != "too long")


def test_value_just_at_the_limit_is_kept(tmp_path):
    record = read_one(tmp_path, make_message(1, b"12345"), max_record_bytes=5)
    assert record.columns.text == "12345"


def test_ids_depend_on_topic_partition_and_offset_alone(tmp_path):
    """However the records were landed: in one file, or in two."""
    messages = [make_message(offset, f"{offset}".encode()) for offset in (4, 5, 9)]
    write_file(tmp_path / "one", 0, messages, 10)
    write_file(tmp_path / "two", 0, messages[:2], 9)
    write_file(tmp_path / "two", 0, messages[2:], 10)
    found = []
    for folder in ("one", "two"):
        source = make_source(tmp_path / folder)
        mapper = Mapper(source)
        ids = []
        for name, record in read_source(source):
            position = make_position((0, 0, "s", name), _as_record(record), mapper)
            ids += [value for value in position if value == doc_id("s", None, "chats/0", record.offset)]
        found.append(ids)
    assert found[0] == found[1]
    assert len(set(found[0])) == 3


def _as_record(record):
    from pipelines.corpus.readers.format import Record

    return Record(record.offset, None, record.num_bytes, record.raw, record.values, None)


def test_slices_read_every_record_once(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.corpus.kafka.files.GROUP_ROWS", 2)
    file = write_file(tmp_path, 0, [make_message(offset) for offset in range(0, 30, 3)], 30)
    source = make_source(tmp_path)
    found = read_in_slices(file.read_bytes(), source, 300, path=str(file))
    assert [record.offset for record in found] == [*range(0, 30, 3)]


def test_damage_is_named_at_an_offset_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.corpus.kafka.files.GROUP_ROWS", 2)
    messages = [make_message(offset, b"%d" % offset * 50) for offset in (5, 20, 21, 30, 40, 50)]
    file = write_file(tmp_path, 0, messages, 51)
    data, source = bytearray(file.read_bytes()), make_source(tmp_path)
    found = {}
    for start in range(4, 700, 7):
        damaged = bytes(data[:start]) + b"\x9a" * 24 + bytes(data[start + 24 :])
        records = read_bytes(damaged, source, path=str(file))
        offsets = [record.offset for record in records]
        assert offsets == sorted(set(offsets))
        found |= {
            record.offset: record.reason for record in records if (record.reason or "").startswith("parquet")
        }
    assert found
    footer = read_bytes(bytes(data[:-9]), source, path=str(file))
    assert [(record.offset, record.reason.partition(":")[0]) for record in footer] == [(5, "parquet")]


def test_only_complete_files_of_the_topic_are_listed(tmp_path):
    write_file(tmp_path, 0, [make_message(1)], 2)
    write_file(tmp_path, 0, [make_message(1)], 2, topic="chats2")
    for name in ("_claims/000000000001.json", "0/.writing-x.parquet", "0/other.parquet", "notes.txt"):
        (tmp_path / "chats" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "chats" / name).write_text("x")
    source = make_source(tmp_path)
    (file,) = list_files(source)
    assert file.relative == f"chats/0/{1:020}.parquet"
    assert name_file(source, file.relative) == "chats/0"
    with pytest.raises(NoFilesError, match="nothing was landed there yet"):
        list_files(make_source(tmp_path, topic="none"))


@pytest.mark.parametrize("topic", ["", "a/b", "..", "a b", "x" * 250, 5])
def test_topic_must_be_a_name_of_kafka(tmp_path, topic):
    with pytest.raises(ValueError, match=r"options\.topic must be the name of a Kafka topic"):
        make_source(tmp_path, topic=topic)
    with pytest.raises(ValueError, match="land must be true or false"):
        kafka.Options(topic="a", land="no")


def test_text_must_be_mapped(tmp_path):
    with pytest.raises(ValueError, match=r"kafka needs fields\.text"):
        make_source(tmp_path, fields={})


@pytest.mark.parametrize(
    "value",
    [
        b'{"body": "hi", "kafka.key": "\\ud800", "kafka.offset": 7}',
        b'{"body": "hi", "kafka.key": "a\\u0000b", "other": "\\ud800"}',
        b'{"body": "hi", "kafka.headers": {"a": 1}}',
    ],
)
def test_a_value_cannot_stand_for_key_or_headers(tmp_path, value):
    record = read_one(tmp_path, make_message(8, value, key=b"k"), fields={"text": "body"})
    assert record.columns.text == "hi"
    assert record.columns.metadata == {"key": "k", "timestamp": "1970-01-01T00:00:00.000Z"}


def test_time_after_the_year_9999_is_left_out(tmp_path):
    record = read_one(tmp_path, make_message(8, timestamp_ms=1_700_000_000_000_000))
    assert record.columns.metadata is None


def test_properties_with_dots_reach_the_client():
    properties = "{security.protocol: SASL_SSL, sasl.password: hushhush}"
    settings = configuration.load(overrides=[f"corpus.kafka.properties={properties}"])
    section = settings.section("corpus", corpus.Config)
    assert section.kafka.properties["security.protocol"] == "SASL_SSL"
    assert "hushhush" not in repr(section)


def test_whether_kafka_is_asked_changes_no_fingerprint(tmp_path):
    def settle(land):
        source = make_source(tmp_path, options={"land": land})
        return leave_out_unset({"rules": {}, "sources": [TypeAdapter(type(source)).dump_python(source)]})

    assert settle(True) == settle(False)


def test_secrets_of_kafka_are_not_printed():
    properties = "{sasl.username: ann, sasl.password: hushhush, ssl.key.pem: deadbeef}"
    settings = configuration.load(overrides=[f"corpus.kafka.properties={properties}"])
    assert "ann" in settings.printed
    assert "hushhush" not in settings.printed
    assert "deadbeef" not in settings.printed

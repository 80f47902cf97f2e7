"""JSON Lines in plain Python, without Spark. Expected values are written by hand."""

import pytest

from tests.corpus.reading import make_source, read_bytes

FIELDS = {"text": "body", "label": "topic", "key": "id", "split": "part"}


def read(data, fields=FIELDS, **knobs):
    return read_bytes(data, make_source(format="jsonl", fields=fields, **knobs))


def read_slice(data, start, stop):
    return read_bytes(data, make_source(format="jsonl", fields={"text": "t"}), start=start, stop=stop)


def test_each_object_is_a_record_with_its_position():
    data = '\ufeff{"body": "你好", "id": 1}\r\n \t\n{"id": "b", "body": "x\\ny", "topic": true}'.encode()
    records = read(data)
    assert [record.columns[:4] for record in records] == [
        ("1", "你好", None, None),
        ("b", "x\ny", "true", None),
    ]
    assert [(record.offset, record.line, record.num_bytes) for record in records] == [(0, 1, 32), (35, 3, 42)]


@pytest.mark.parametrize("number", ["12345678901234567890123", "1.0", "1e400", "-0"])
def test_number_keeps_its_spelling(number):
    assert read(f'{{"body": "a", "id": {number}}}'.encode())[0].columns.key == number


def test_number_and_its_text_are_the_same_key():
    assert [record.columns.key for record in read(b'{"body": "a", "id": 1}\n{"body": "b", "id": "1"}')] == [
        "1",
        "1",
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"body": "a"', "invalid JSON"),
        (b"{'body': 'a'}", "invalid JSON"),
        (b'{"body": NaN}', "invalid JSON: NaN"),
        (b'{"id": 1, "body": "a"}{"id": 2, "body": "b"}', "invalid JSON: Extra data"),
        (b"[" * 100_000, "invalid JSON: nested"),
        (b'["a"]', "not an object: the line holds an array"),
        (b"null", "not an object"),
        (b'"a"', "not an object"),
        (b'{"id": 1}', "text: field 'body' is null or missing"),
        (b'{"id": 1, "body": 7}', "text: field 'body' is a number"),
        (b'{"id": 1, "body": ["a"]}', "text: field 'body' is an array"),
        (b'{"body": "a"}', "key: field 'id' is null or missing"),
        (b'{"id": "", "body": "a"}', "key: field 'id' is empty"),
        (b'{"id": {}, "body": "a"}', "key: field 'id' is an object"),
        (b'{"id": 1, "body": "a", "topic": ["x"]}', "label: field 'topic' is an array"),
        (b'{"id": 1, "body": "a", "part": "dev"}', "split: 'dev' is not one of train, validation, test"),
        (b'{"id": 1, "body": "\xff"}', "invalid UTF-8: byte 0xff at 19"),
        (b'{"id": 1, "body": "\\ud83d"}', "lone surrogate: U+D83D"),
        (b'{"id": 1, "body": "a\\u0000"}', "NUL"),
        (b'{"id": 1, "body": "a\0"}', "NUL"),
        (b"\xff\xfe{\0}\0", "invalid UTF-8"),
    ],
)
def test_broken_line_leaves_its_neighbours_intact(line, reason):
    records = read(b'{"id": "x", "body": "a"}\n' + line + b'\n{"id": "y", "body": "b"}\n')
    assert [record.columns and record.columns.text for record in records] == ["a", None, "b"]
    assert records[1].reason.startswith(reason)
    assert (records[1].raw, records[1].offset, records[1].line) == (line + b"\n", 25, 2)


@pytest.mark.parametrize(
    ("escape", "reason"),
    [("\\u0000", "NUL: field 'm' contains"), ("\\udc00", "lone surrogate: U+DC00 in field 'm'")],
)
def test_escapes_that_are_not_text_are_found_at_any_depth(escape, reason):
    dialogue = make_source(format="jsonl", messages="m")
    for turn in (f'{{"role": "user", "content": "{escape}"}}', f'{{"role": "{escape}", "content": "a"}}'):
        (record,) = read_bytes(f'{{"m": [{turn}], "other": 1}}'.encode(), dialogue)
        assert record.reason.startswith(reason)
    (record,) = read_bytes(f'{{"m": [], "other": "{escape}"}}'.encode(), dialogue)
    assert record.reason.startswith("messages")  # a field that is not mapped does no harm


def test_surrogate_pair_is_one_character():
    assert read(b'{"id": 1, "body": "\\ud83d\\ude00"}')[0].columns.text == "\U0001f600"


@pytest.mark.parametrize(("num_bytes", "kept"), [(100, True), (101, False), (200_000, False)])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b""])
def test_longest_record_kept_has_max_record_bytes(num_bytes, kept, line_end):
    line = b'{"t": "' + b"a" * (num_bytes - 9) + b'"}' + line_end
    records = read(line + (b'{"t": "b"}' if line_end else b""), fields={"text": "t"}, max_record_bytes=100)
    assert records[0].num_bytes == len(line)
    assert (records[0].reason is None) == kept
    assert len(records[0].raw) <= 102
    assert not line_end or records[1].columns.text == "b"


@pytest.mark.parametrize("tail", [b"", b"\n", b"\n\n", b'\n{"t": "last"}'])
def test_slices_of_any_size_read_each_record_once(tail):
    lines = [b'{"t": "a"}', b"", b'{"t": "\xe4\xbd\xa0"}\r', b"bad", b"", b'{"t": "ccccccc"}']
    data = b"\n".join(lines) + tail
    whole = read_slice(data, 0, None)
    assert [record.line for record in whole] == [1, 3, 4, 6, 7][: len(whole)]
    assert len(whole) >= 4
    for size in range(1, len(data) + 2):
        starts = range(0, len(data), size)
        parts = [read_slice(data, start, start + size) for start in starts]
        assert [record for part in parts for record in part] == whole, size

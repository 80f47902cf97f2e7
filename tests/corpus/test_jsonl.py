"""JSON Lines in plain Python, without Spark. Expected values are written by hand."""

import random

import pytest

from pipelines.corpus.readers.format import MalformedError
from pipelines.corpus.readers.jsonl import parse_carefully, parse_quickly
from pipelines.corpus.readers.values import Number
from tests.corpus.reading import make_source, read_bytes, read_in_slices

FIELDS = {"text": "body", "label": "topic", "key": "id", "split": "part"}


def read(data, fields=FIELDS, **knobs):
    return read_bytes(data, make_source(format="jsonl", fields=fields, **knobs))


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
    source = make_source(format="jsonl", fields={"text": "t"})
    whole = read_bytes(data, source)
    assert [record.line for record in whole] == [1, 3, 4, 6, 7][: len(whole)]
    assert len(whole) >= 4
    for size in range(1, len(data) + 2):
        assert read_in_slices(data, source, size) == whole, size


PIECES = [
    *(b'"t"', b":", b",", b"{", b"}", b"[", b"]", b" ", b"0", b"-0", b"-1", b"7", b"1.0", b"1e5", b"1e400"),
    *(b"01", b"18446744073709551616", b"true", b"null", b"NaN", b"-Infinity", b'"a"', b'"', b"\\"),
    *(b"\\u0000", b"\\ud83d", b"\\ud83d\\ude00", b"\\u4f60", b"\\/", b"\\x", b"\xff", b"\xed\xa0\x80"),
    *(b"\0", b"\t", b"\x1f", "你".encode(), b"\xef\xbb\xbf", b"\x7f", b"\x0b"),
]
WHOLE = [
    *(b'{"t": "a", "n": 1}', b'{"t": [1, "a"]}', b'{"t": {"a": [null, "b"]}}', b'{"t": "a", "t": 2}'),
    *(b'{"t": -0}', b'{"t": 12345678901234567890123}', b'{"t": ["a", {"b": "c"}]}'),
    b'{"n": {"t": 1.50}, "t": true}',
]


def test_orjson_gives_what_json_gives_on_random_lines():
    # The two parsers must agree wherever the quick one gives an answer, on good and on damaged lines.
    generator, num_quick, num_broken = random.Random(20_261_121), 0, 0
    for _ in range(40_000):
        line = bytearray(generator.choice(WHOLE))
        for _ in range(generator.randrange(4)):
            at = generator.randrange(len(line) + 1)
            line[at : at + generator.randrange(3)] = generator.choice(PIECES)
        quick = parse_quickly(bytes(line), ("t", "n"))
        try:
            careful = parse_carefully(bytes(line), ("t", "n"))
        except MalformedError:
            careful, num_broken = None, num_broken + 1
        if quick is not None:
            num_quick += 1
            mapped = [[values.get(name) for name in ("t", "n")] for values in (quick, careful or {})]
            assert repr(mapped[0]) == repr(mapped[1]), bytes(line)
            assert [list(map(type, each)) for each in mapped[:1]] == [list(map(type, mapped[1]))], bytes(line)
    assert num_quick > 5_000
    assert num_broken > 10_000


@pytest.mark.parametrize(("depth", "is_read"), [(400, True), (900, True), (5_000, False)])
def test_depth_of_nesting_has_one_limit(depth, is_read):
    inside = b"[" * depth + b"]" * depth
    (record,) = read(b'{"id": 1, "body": "a", "other": ' + inside + b"}")
    assert (record.reason is None) == is_read
    # Brackets in a text are not nesting.
    assert parse_quickly(b'{"body": "' + b"[" * depth + b'"}', ("body",)) == {"body": "[" * depth}


@pytest.mark.parametrize(("left", "right"), [(b"[", b"]"), (b'{"a":', b"}"), (b'{"a":[', b"]}")])
def test_deep_nesting_of_any_kind_is_left_to_json(left, right):
    # orjson reads 1,024 levels, json fewer: what is between would depend on the parser.
    num_repeats = 1_000 // (left.count(b"[") + left.count(b"{"))
    inside = left * num_repeats + b"1" + right * num_repeats
    assert parse_quickly(b'{"body": "a", "other": ' + inside + b"}", ("body",)) is None
    assert parse_quickly(b'{"other": ' + left * 3 + b"1" + right * 3 + b"}", ("body",)) is not None


def test_integers_keep_their_spelling_with_orjson():
    assert parse_quickly(b'{"a": 7, "b": -12}', ("a", "b")) == {"a": Number("7"), "b": Number("-12")}
    for spelling in (b"0", b"-0", b"1.0", b"18446744073709551616"):
        assert parse_quickly(b'{"a": ' + spelling + b"}", ("a",)) is None

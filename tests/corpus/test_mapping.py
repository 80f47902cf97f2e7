"""Record values to the columns of a document. Expected values are written by hand."""

import json

import pytest

from pipelines.corpus.readers.format import Format, MalformedError
from pipelines.corpus.readers.mapping import Mapper
from pipelines.corpus.readers.values import Number
from tests.corpus.reading import kinds, make_source, read_bytes

OPENAI = [{"role": "system", "content": " 简短回答。 "}, {"role": "user", "content": "e\u0301?"}]
SHAREGPT = [{"from": "human", "value": "你好"}, {"from": "gpt", "value": "您好\r\n"}]


def map_columns(values, **knobs):
    return Mapper(make_source(format="jsonl", **knobs)).map_values(values)


def test_parts_are_named_texts_in_order():
    columns = map_columns(
        {"bad": "b\r\n", "question": " q ", "good": "e\u0301"},
        parts={"prompt": "question", "chosen": "good", "rejected": "bad"},
    )
    assert columns.parts == [("prompt", "q"), ("chosen", "\u00e9"), ("rejected", "b")]
    assert columns.text == "q\n\n\u00e9\n\nb"


def test_array_field_becomes_several_parts():
    columns = map_columns(
        {"q": "a", "wrong": ["b", "c"], "none": []},
        parts={"query": "q", "negative": "wrong", "hard_negative": "none"},
    )
    assert columns.parts == [("query", "a"), ("negative", "b"), ("negative", "c")]


def test_mapped_text_stays_beside_parts():
    columns = map_columns({"t": "title", "q": "a"}, fields={"text": "t"}, parts={"query": "q"})
    assert (columns.text, columns.parts) == ("title", [("query", "a")])


def test_empty_parts_stay_but_add_no_blank_line():
    columns = map_columns({"a": "x", "b": " ", "c": "y"}, parts={"a": "a", "b": "b", "c": "c"})
    assert (columns.text, columns.parts) == ("x\n\ny", [("a", "x"), ("b", ""), ("c", "y")])


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (OPENAI, [("system", "简短回答。"), ("user", "\u00e9?")]),
        (SHAREGPT, [("human", "你好"), ("gpt", "您好")]),
        (json.dumps(SHAREGPT), [("human", "你好"), ("gpt", "您好")]),
        ([OPENAI[0], OPENAI[0]], [("system", "简短回答。"), ("system", "简短回答。")]),
    ],
)
def test_turns_become_parts_named_by_role(messages, expected):
    columns = map_columns({"m": messages}, messages="m")
    assert columns.parts == expected
    assert columns.text == "\n\n".join(text for _, text in expected)


def test_fields_of_turns_are_lost_only_by_order():
    turn = {"role": "user", "content": "a", "id": "7", "tool_calls": [], "audio": None, "refusal": ""}
    with pytest.raises(MalformedError, match="turn 1 has id, a string, which would be lost"):
        map_columns({"m": [turn]}, messages="m")
    columns = map_columns({"m": [turn]}, messages="m", ignored_turn_fields=("id",))
    assert columns.parts == [("user", "a")]


def test_ignored_turn_fields_need_messages():
    with pytest.raises(ValueError, match="ignored_turn_fields are fields of messages; map messages"):
        make_source(fields={"text": "t"}, ignored_turn_fields=("id",))


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (None, "messages: field 'm' is null or missing, not an array of turns"),
        ({}, "messages: field 'm' is an object, not an array of turns"),
        ([], "messages: field 'm' is an empty array"),
        ("[{", "messages: field 'm': invalid JSON: "),
        ([OPENAI[0], "hello"], "messages: turn 2 is a string, not an object"),
        ([{"content": "a"}], "messages: role of turn 1 is null or missing, not a name"),
        ([{"role": "", "content": "a"}], "messages: role of turn 1 is empty, not a name"),
        ([{"role": Number("1"), "content": "a"}], "messages: role of turn 1 is a number, not a name"),
        ([{"role": "user"}], "messages: content of turn 1 is null or missing, not a string"),
        (
            [{"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}],
            "messages: turn 1 has tool_calls, an array, which would be lost; write it in its text, or name",
        ),
        (
            [OPENAI[0], {"role": "a", "content": "b", "weight": Number("0")}],
            "messages: turn 2 has weight, a num",
        ),
        ([{"from": "gpt", "value": ["a"]}], "messages: value of turn 1 is an array, not a string"),
        ('[{"role": "user", "content": "a\\u0000"}]', "NUL: field 'm' contains"),
    ],
)
def test_broken_dialogue_gives_its_reason(messages, reason):
    with pytest.raises(MalformedError) as raised:
        map_columns({"m": messages}, messages="m")
    assert str(raised.value).startswith(reason)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "part query: field 'q' is null or missing, not a string"),
        (Number("7"), "part query: field 'q' is a number, not a string"),
        (["a", None], "part query: field 'q' is an array with null or missing, not a string"),
    ],
)
def test_broken_part_gives_its_reason(value, reason):
    with pytest.raises(MalformedError) as raised:
        map_columns({"q": value}, parts={"query": "q"})
    assert str(raised.value) == reason


def test_metadata_keeps_scalars_as_text():
    values = {"t": "a", "link": "http://例子/", "n": Number("007"), "b": True, "none": None, "empty": ""}
    names = {"url": "link", "number": "n", "flag": "b", "none": "none", "empty": "empty", "missing": "x"}
    columns = map_columns(values, fields={"text": "t"}, metadata=names)
    assert columns.metadata == {"url": "http://例子/", "number": "007", "flag": "true"}
    assert map_columns({"t": "a"}, fields={"text": "t"}, metadata=names).metadata is None
    assert map_columns(values, fields={"text": "t"}).metadata is None


def test_nested_metadata_is_quarantined():
    with pytest.raises(MalformedError, match="metadata tags: field 'tags' is an array, not a string, number"):
        map_columns({"t": "a", "tags": ["x"]}, fields={"text": "t"}, metadata={"tags": "tags"})


@pytest.mark.parametrize(
    ("format_name", "data"),
    [
        ("csv", 'q,m,u\n"a","[{""role"": ""user"", ""content"": ""你好""}]",http://x\nb,[],http://y\n'),
        ("tsv", 'q\tm\tu\na\t[{"role": "user", "content": "你好"}]\thttp://x\nb\t[]\thttp://y\n'),
        (
            "jsonl",
            '{"q": "a", "u": "http://x", "m": [{"role": "user", "content": "你好"}]}\n\n{"m": [], "q": "b"}',
        ),
    ],
)
def test_formats_with_lines_support_structure(format_name, data):
    dialogue = make_source(format=format_name, messages="m", metadata={"url": "u"})
    records = read_bytes(data.encode(), dialogue)
    columns = records[0].columns
    assert (columns.parts, columns.metadata) == ([("user", "你好")], {"url": "http://x"})
    assert kinds(records) == {3: "messages"}
    (first, second) = read_bytes(data.encode(), make_source(format=format_name, parts={"query": "q"}))
    assert (first.columns.parts, second.columns.parts) == ([("query", "a")], [("query", "b")])


def test_format_with_fixed_fields_gives_text_and_metadata(monkeypatch):
    """A format without lines that names its fields itself, as web archives and PDF do."""
    from pipelines.corpus.readers import table
    from pipelines.corpus.readers.format import Extent, Record

    def read(stream, part, request):
        for number, page in enumerate(stream.read().decode().split("\f")):
            yield Record(number, None, len(page), page.encode(), {"text": page, "page": Number(number)}, None)
        return Extent()

    monkeypatch.setitem(table.FORMATS, "pages", Format(read=read, field_names=("text", "page")))
    first, second = read_bytes("甲\f乙".encode(), make_source(format="pages"))
    assert (first.columns.text, first.columns.metadata) == ("甲", {"page": "0"})
    assert (second.offset, second.line, second.columns.metadata) == (1, None, {"page": "1"})
    renamed = make_source(format="pages", metadata={"number": "page"})
    assert read_bytes("甲".encode(), renamed)[0].columns.metadata == {"number": "0"}
    with pytest.raises(ValueError, match="a pages record has only the field text, page; remove url"):
        make_source(format="pages", metadata={"x": "url"})

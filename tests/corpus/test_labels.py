"""Any number of labels of a record -> the column `label`. Expected values are written by hand."""

from typing import Any

import pytest
from pydantic import TypeAdapter

from pipelines.corpus.readers.format import MalformedError
from pipelines.corpus.readers.mapping import Mapper
from pipelines.corpus.readers.values import Number
from pipelines.corpus.rules import Rules, leave_out_unset
from pipelines.label_sets import read_label_set, write_label_set
from pipelines.pin import fingerprint
from tests.corpus.reading import kinds, make_source, read_bytes

FIELDS = {"text": "t", "labels": "tags"}


def map_label(value, separator=None):
    source = make_source(format="jsonl", fields=FIELDS, label_separator=separator)
    return Mapper(source).map_values({"t": "x", "tags": value}).label


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["b", "a"], '["a","b"]'),
        (["b", " b ", "b\r\n"], '["b"]'),
        (["e\u0301", "退款"], '["\u00e9","退款"]'),
        ([Number("7"), True], '["7","true"]'),
        ([], "[]"),
        ("", "[]"),
        (None, None),
        ('["b", "a"]', '["a","b"]'),
    ],
)
def test_an_array_becomes_a_sorted_set(value, expected):
    assert map_label(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("b|a", '["a","b"]'),
        (" b | a ||b|", '["a","b"]'),
        ("a", '["a"]'),
        (Number("7"), '["7"]'),
        ("", "[]"),
        (" | ", "[]"),
        (["c|d"], '["c|d"]'),
        (None, None),
    ],
)
def test_a_text_is_cut_at_the_separator(value, expected):
    assert map_label(value, "|") == expected


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("b|a", "labels: field 'tags' is text, but no JSON array, and the source has no label_separator"),
        (Number("7"), "labels: field 'tags' is a number, not an array of labels"),
        ({"a": True}, "labels: field 'tags' is an object, not an array of labels"),
        (["a", None], "labels: field 'tags' is an array with null or missing, not a label"),
        (["a", " "], "labels: field 'tags' is an array with an empty string, not a label"),
        (["a", ["b"]], "labels: field 'tags' is an array with an array, not a label"),
        ('["\\u0000"]', "NUL: field 'tags' contains the character U\\+0000"),
    ],
)
def test_other_values_are_refused_with_the_reason(value, reason):
    with pytest.raises(MalformedError, match=f"^{reason}"):
        map_label(value)


def test_sets_are_read_from_files_of_both_kinds():
    jsonl = b'{"t": "x", "tags": ["b", "a"]}\n{"t": "y", "tags": 3}\n{"t": "z"}\n'
    found = read_bytes(jsonl, make_source(format="jsonl", fields=FIELDS))
    assert [each.columns and each.columns.label for each in found] == ['["a","b"]', None, None]
    assert kinds(found) == {2: "labels"}
    csv = b"t,tags\nx,b;a\ny,\n"
    found = read_bytes(csv, make_source(format="csv", fields=FIELDS, label_separator=";"))
    assert [each.columns.label for each in found] == ['["a","b"]', "[]"]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"fields": {**FIELDS, "label": "l"}}, "fields.label is one label and fields.labels any number"),
        (
            {"fields": {"text": "t"}, "label_separator": "|"},
            "label_separator .* map fields.labels, or remove",
        ),
        ({"fields": FIELDS, "label_separator": ""}, "label_separator .* at least one character, got ''"),
    ],
)
def test_a_mapping_that_contradicts_itself_is_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        make_source(**knobs)


def test_a_set_is_read_as_it_was_written():
    names = ('quote " and \\', "退款", "a")
    assert read_label_set(write_label_set(names)) == tuple(sorted(names))
    assert write_label_set(["b", "a", "b"]) == '["a","b"]'
    assert read_label_set("[]") == ()


@pytest.mark.parametrize("text", ["card", '"a"', "[1]", '[""]', '{"a": 1}'])
def test_a_single_label_is_no_set(text):
    with pytest.raises(ValueError, match=r"is no JSON array of names.*map corpus.sources\[\].fields.labels"):
        read_label_set(text)


def test_a_corpus_without_sets_of_labels_keeps_its_fingerprint():
    def identify(**knobs):
        parts = {"rules": Rules(), "sources": [make_source(format="csv", **knobs)]}
        return fingerprint(leave_out_unset(TypeAdapter(dict[str, Any]).dump_python(parts, mode="json")))

    # The value that Distributary computed before there was `label_separator`.
    assert identify(fields={"text": "t", "label": "l"}) == "d067c25f74bea9bfb30d99de1507eb90"
    sets = [identify(fields=FIELDS), identify(fields=FIELDS, label_separator="|")]
    assert sets[0] != sets[1]

"""The numbers of a report as JSON: what they say, and that they hold no text of a document."""

import json
from types import SimpleNamespace

import pytest

from pipelines.corpus.report.content import COPY, Amount, Tokens
from pipelines.corpus.report.numbers import are_settled, read_numbers, write_numbers
from pipelines.report import are_about
from tests.corpus.report_content import SHORT_LINES, make_content, make_token_counts


def test_numbers_come_back_as_they_were():
    content = make_content(lengths={(True, 0): Amount(1, 0), (False, 13): Amount(2, 9_000)})
    found = read_numbers(write_numbers(content))
    assert (found.lengths, found.languages, found.clusters) == (
        content.lengths,
        content.languages,
        content.clusters,
    )
    assert found.tokens == {}
    assert read_numbers(write_numbers(make_content(languages=None))).languages is None


def test_tokens_are_those_of_all_sources():
    counts = make_token_counts(kept={None: 3_511})
    assert read_numbers(write_numbers(make_content(token_counts=counts))).tokens == {
        "language": Tokens(1_500),
        SHORT_LINES: Tokens(75),
        COPY: Tokens(1_250),
        None: Tokens(3_511, is_exact=True),
    }


def test_outcomes_name_source_reason_and_limits():
    value = json.loads(write_numbers(make_content(token_counts=make_token_counts())))
    of_web = [
        (group["drop_reason"], group["documents"]) for group in value["outcomes"] if group["source"] == "web"
    ]
    assert of_web == [("language", 3), (SHORT_LINES, 2), (None, 9)]
    assert value["lengths"][0] == {
        "is_kept": False,
        "min_characters": 128,
        "max_characters": 255,
        "documents": 2,
        "characters": 300,
    }
    assert value["tokens"] == {"tokenizer": "tokenizer of gpt", "sampled_documents": 16}
    assert value["quarantined"] == 4


def test_numbers_hold_no_text_of_documents():
    text = write_numbers(make_content())
    assert "example.org" not in text
    assert "Menu" not in text
    assert "a.warc.gz" not in text


@pytest.mark.parametrize(
    ("version", "digest", "expected"), [(3, "cd" * 16, True), (2, "cd" * 16, False), (3, "ab" * 16, False)]
)
def test_numbers_are_about_one_version(version, digest, expected):
    documents = SimpleNamespace(table="documents", version=version, digest=digest)
    assert are_about(write_numbers(make_content()), documents) is expected
    assert not are_about("{broken", documents)
    assert not are_about("[]", documents)


def test_numbers_say_what_setting_they_were_made_with():
    content = make_content(token_counts=make_token_counts())
    value = json.loads(write_numbers(content, "org/small"))
    assert (value["format"], value["report_tokenizer"]) == (1, "org/small")
    assert json.loads(write_numbers(content))["report_tokenizer"] is None
    assert are_settled(json.dumps(value), "org/small")
    for changes in ({"format": 2}, {"report_tokenizer": "org/large"}, {"tokens": None}, {"tokens": 7}):
        assert not are_settled(json.dumps({**value, **changes}), "org/small")
    assert not are_settled("{broken", None)

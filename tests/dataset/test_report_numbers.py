"""The numbers of a report of sequences as JSON: what they say, and that they hold no text of a document."""

import json

import pytest

from pipelines.dataset.report.content import Documents, Sequences
from pipelines.dataset.report.numbers import are_settled, read_numbers, write_numbers
from tests.dataset.report_content import make_content


def test_numbers_come_back_summed_over_splits():
    found = read_numbers(write_numbers(make_content()))
    assert found.documents == {2: Documents(12, 34, 14), 3: Documents(3, 15, 3), 5: Documents(1, 20, 3, 7)}
    assert found.sequences == {1: Sequences(1, 1, 0), 3: Sequences(2, 12, 9), 4: Sequences(7, 56, 47, 4)}
    assert found.sources == {"web": Documents(10, 45, 13, 7), "news": Documents(6, 24, 7)}


def test_numbers_name_their_groups():
    value = json.loads(write_numbers(make_content()))
    assert value["splits"][0] == {
        "split": "train",
        "sequences": 8,
        "tokens": 60,
        "targets": 49,
        "places": 64,
        "continued_segments": 3,
        "documents": 13,
        "document_tokens": 60,
        "segments": 16,
        "cut_tokens": 7,
    }
    assert value["documents_by_length"][0] == {
        "split": "test",
        "min_tokens": 2,
        "max_tokens": 3,
        "documents": 3,
        "tokens": 9,
        "segments": 4,
        "cut_tokens": 0,
    }
    assert value["sequences_by_fill"][-1] == {"split": "train", "min_filled_fraction": 1.0, "sequences": 6}
    assert (value["sequences_version"], value["sequences_digest"]) == (3, "cd" * 16)


def test_numbers_hold_no_text_and_no_document():
    text = write_numbers(make_content())
    assert "ab" * 16 not in text
    assert "我的" not in text


def change(**changes):
    return json.dumps({**json.loads(write_numbers(make_content())), **changes})


def test_numbers_of_this_format_are_settled():
    assert are_settled(change())
    assert not are_settled(change(format=2))
    assert not are_settled("{broken")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"format": 2},
            r"have format 1, these 2; delete them, and the stage dataset writes the report again",
        ),
        ({"sources": 7}, r"were changed after they were written \(TypeError"),
        ({"documents_by_length": [{"max_tokens": 1}]}, r"\(KeyError\('documents'\)\)"),
        ({"sequences_by_length": [{"max_tokens": "x"}]}, r"\(ValueError"),
    ],
)
def test_numbers_that_were_changed_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        read_numbers(change(**changes))

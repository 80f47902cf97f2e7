"""The limit of documents that a task may leave out, and what is said of them. No Spark."""

import pytest

from jobs.shell.facts import display_sequences
from pipelines.dataset.left_out_limit import LeftOut, require_few_committed, require_few_left_out
from pipelines.pin import Pin


def make_pin(left_out, *, units=19):
    counts = {"sequences": 19, "tokens": 190, "cut_tokens": 0, "units": units}
    facts = {"task": "chat", "splits": {"train": counts}, "sequence_length": 16, "left_out": left_out}
    return Pin(
        table="sequences",
        path="/t",
        table_id="t",
        version=3,
        digest="d",
        num_rows=19,
        fingerprint="f",
        facts=facts,
    )


def test_documents_left_out_are_shown_with_the_first_or_without():
    first = {"doc_id": "d1", "reason": "no answer"}
    shown = display_sequences(make_pin({"documents": 1200, "first": [first]}))
    assert shown["documents left out"] == "1,200; first d1: no answer"
    assert display_sequences(make_pin({"documents": 2, "first": []}))["documents left out"] == "2"
    assert "documents left out" not in display_sequences(make_pin({"documents": 0, "first": []}))


def test_a_limit_is_told_with_the_first_documents_or_without():
    require_few_left_out(2, 20, [], max_fraction=0.1)
    with pytest.raises(ValueError, match=r"3 of 20 .* not written\. To accept the loss, raise the fraction"):
        require_few_left_out(3, 20, [], max_fraction=0.1)
    with pytest.raises(ValueError, match=r"The first ones: document d1: no answer; to accept the loss"):
        require_few_left_out(3, 20, [LeftOut("d1", "no answer")], max_fraction=0.1)


def test_a_limit_that_was_lowered_refuses_sequences_that_are_there():
    left_out = {"documents": 1, "first": [{"doc_id": "d1", "reason": "no answer"}]}
    require_few_committed(make_pin(left_out), 0.05)
    require_few_committed(make_pin({"documents": 0, "first": []}), 0.0)
    message = r"1 of 20 documents .* 0\.01, and version 3 of /t was written without them\. .* document d1"
    with pytest.raises(ValueError, match=message):
        require_few_committed(make_pin(left_out), 0.01)

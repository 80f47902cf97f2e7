"""The limit of documents that a task may leave out, and what is said of them. No Spark."""

import pytest

from jobs.shell.facts import display_sequences
from pipelines.dataset.chat_format import ChatFormat
from pipelines.dataset.documents import DocumentSummary
from pipelines.dataset.group import PackingJob
from pipelines.dataset.left_out import check_left_out
from pipelines.dataset.left_out_limit import LeftOut, require_few_committed, require_few_left_out
from pipelines.dataset.packing.rules import PackingRules
from pipelines.delta import ContractError
from pipelines.pin import Pin


def make_pin(left_out, *, units=19, task="chat"):
    counts = {"sequences": 19, "tokens": 190, "cut_tokens": 0, "units": units}
    facts = {"task": task, "splits": {"train": counts}, "sequence_length": 16, "left_out": left_out}
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


def test_a_document_of_several_units_is_one_document():
    left_out = {"documents": 1, "first": [{"doc_id": "d1", "reason": "equal"}]}
    for pinned in (make_pin(left_out), make_pin(left_out, units=38, task="preference")):
        require_few_committed(pinned, 0.05)
        with pytest.raises(ValueError, match="1 of 20 documents"):
            require_few_committed(pinned, 0.01)


@pytest.mark.parametrize(
    ("task", "num_packed", "message"),
    [
        ("language_modelling", 19, "1 documents are in no sequence, but task language_modelling leaves none"),
        ("classification", 18, "2 documents are in no sequence, but task classification leaves none out"),
        ("masked_language_modelling", 21, "they hold 21 documents, 1 more than are kept"),
        ("chat", 22, "they hold 22 documents, 2 more than are kept"),
    ],
)
def test_documents_that_were_lost_or_repeated_are_refused(task, num_packed, message):
    job = PackingJob(
        task=task, tokenizer_json="", end_token_id=None, labels=(), rules=PackingRules(), chat=ChatFormat()
    )
    summary = DocumentSummary(20, 0, (), {}, None)
    counts = {"train": {"units": 8, "sequences": 8}, "test": {"units": 12, "sequences": 12}}
    assert check_left_out(None, None, job, counts, summary, 0.5) == {"documents": 0, "first": []}
    counts["test"] = {"units": num_packed - 8, "sequences": num_packed - 8}
    with pytest.raises(ContractError, match=message):
        check_left_out(None, None, job, counts, summary, 0.5)

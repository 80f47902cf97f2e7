"""Conversations that teach nothing: left out with a reason, or counted, and every other token is there."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from pipelines.dataset.build import build_sequences, count_splits
from pipelines.dataset.chat_template import read_chat_format, write_chat_format
from pipelines.dataset.documents import summarize_documents
from pipelines.dataset.group import PackingJob
from pipelines.dataset.layout import lay_out_groups
from pipelines.dataset.left_out import check_left_out, find_left_out
from pipelines.dataset.packing.rules import PackingRules
from pipelines.dataset.tokenizer import ChosenTokenizer
from pipelines.delta import ContractError
from tests.dataset.building import documents_of
from tests.dataset.chat.conversations import END, build_chat, format_of, read_template, special_tokenizer

GOOD = [("user", "Where is my card?"), ("assistant", "On its way.")]
TOO_LONG = [("user", "why? " * 80), ("assistant", "because")]
BAD = {
    5: [("user", "a"), ("narrator", "b"), ("assistant", "c")],
    9: [("narrator", "a"), ("assistant", "b")],
    12: [("user", "a")],
}
NUM_DOCUMENTS = 20


def conversations(spark, turns_of):
    rows = [row.asDict() for row in documents_of(spark, ["x"] * NUM_DOCUMENTS).collect()]
    for number, row in enumerate(rows):
        row["parts"] = turns_of(number)
    return spark.createDataFrame([tuple(row.values()) for row in rows], documents_of(spark, ["x"]).schema)


def left_out_job():
    tokenizer = special_tokenizer()
    return PackingJob(
        task="chat",
        tokenizer_json=tokenizer.to_str(),
        end_token_id=tokenizer.token_to_id(END),
        labels=(),
        rules=PackingRules(sequence_length=64),
        chat=format_of(read_template("chatml")),
    )


@contextmanager
def build(documents, rules, *, max_left_out_fraction=0.0):
    """The rows, the counts, and what is kept of the documents that were left out."""
    tokenizer = special_tokenizer()
    chat = format_of(read_template("chatml"))
    chosen = ChosenTokenizer(tokenizer, tokenizer.token_to_id(END), chat=chat)
    summary = summarize_documents(
        documents, max_bytes=10**9, group_bytes=rules.group_bytes, with_labels=False
    )
    layout = lay_out_groups(summary.place_bytes, rules.group_bytes)
    built = build_sequences(documents, chosen, rules, task="chat", labels=(), layout=layout)
    counts = count_splits(built.rows)
    left_out = check_left_out(documents, built.rows, built.job, counts, summary, max_left_out_fraction)
    yield SimpleNamespace(rows=built.rows, counts=counts, left_out=left_out)


@pytest.mark.parametrize("method", ["one_per_document", "concatenate", "best_fit"])
@pytest.mark.parametrize("group_bytes", [10**6, 2000])
def test_bad_conversations_are_left_out_and_all_other_tokens_kept(spark, method, group_bytes):
    documents = conversations(spark, lambda number: BAD.get(number, GOOD))
    rules = PackingRules(method=method, sequence_length=64, group_bytes=group_bytes)
    with build(documents, rules, max_left_out_fraction=0.15) as built:
        rows = built.rows.collect()
    counts = built.counts["train"]
    tokens = len(build_chat(read_template("chatml"), GOOD).input_ids)
    assert counts["tokens"] == sum(row["num_tokens"] for row in rows) == 17 * tokens
    assert len({row["sequence_id"] for row in rows}) == counts["sequences"]
    found = {segment["doc_id"] for row in rows for segment in row["segments"]}
    assert found == {f"{number:032x}" for number in set(range(NUM_DOCUMENTS)) - BAD.keys()}
    assert (built.left_out["documents"], counts["units"]) == (3, 17)
    assert [(each["doc_id"], each["reason"][:25]) for each in built.left_out["first"]] == [
        (f"{5:032x}", "turn 2 has role 'narrator"),
        (f"{9:032x}", "turn 1 has role 'narrator"),
        (f"{12:032x}", "it has no turn of the ass"),
    ]


def test_too_many_bad_conversations_stop_the_stage(spark):
    documents = conversations(spark, lambda number: BAD.get(number, GOOD))
    message = (
        r"3 of 20 documents cannot be learned from, more than dataset\.max_left_out_fraction = 0\.14, .*"
        r"first ones: document 0+5: turn 2 has role 'narrator'.*to accept the loss, raise the fraction"
    )
    with (
        pytest.raises(ValueError, match=message),
        build(documents, PackingRules(sequence_length=64), max_left_out_fraction=0.14),
    ):
        pass


def test_a_group_of_bad_conversations_alone_gives_no_rows(spark):
    documents = conversations(spark, lambda number: BAD[5])
    with build(documents, PackingRules(sequence_length=64), max_left_out_fraction=1.0) as built:
        assert built.rows.collect() == []
    assert (built.counts, built.left_out["documents"]) == ({}, NUM_DOCUMENTS)
    assert len(built.left_out["first"]) == NUM_DOCUMENTS


def test_documents_without_a_target_are_counted_and_kept(spark):
    documents = conversations(spark, lambda number: TOO_LONG if number in (3, 4) else GOOD)
    with build(documents, PackingRules(sequence_length=64)) as built:
        rows = {row["segments"][0]["doc_id"]: row for row in built.rows.collect()}
    counts = built.counts["train"]
    assert counts["without_target"] == 2
    assert [rows[f"{number:032x}"]["num_targets"] > 0 for number in (2, 3, 4, 5)] == [
        True,
        False,
        False,
        True,
    ]
    assert built.left_out == {"documents": 0, "first": []}


def test_a_document_that_was_lost_is_not_called_left_out(spark):
    documents = conversations(spark, lambda number: GOOD)
    with build(documents, PackingRules(sequence_length=64)) as built:
        some = built.rows.where(f"segments[0].doc_id != '{7:032x}'")
        job = left_out_job()
        with pytest.raises(ContractError, match=r"document 0+7 is in none of them, but can be learned from"):
            find_left_out(documents, some, job)


def test_a_kept_chat_format_is_read_back_or_refused(tmp_path):
    chat = format_of(read_template("llama3"), roles=(("bot", "assistant"),), date="2026-01-02")
    name = write_chat_format(chat, str(tmp_path))
    read = read_chat_format(str(tmp_path), name)
    assert (read.fingerprint, read.template, read.roles, read.date) == (
        chat.fingerprint,
        chat.template,
        chat.roles,
        "2026-01-02",
    )
    file = tmp_path / f"{name}.chat.json"
    file.write_text(file.read_text().replace("2026-01-02", "2026-01-03"))
    with pytest.raises(ValueError, match=r"was changed after it was written; delete it and the sequences"):
        read_chat_format(str(tmp_path), name)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"delete the sequences table and run the dataset stage"):
        read_chat_format(str(tmp_path), name)

"""Groups of documents, inside one task and without Spark."""

import pyarrow as pa

from pipelines.dataset import group
from pipelines.dataset.packing.conservation import TokenCount
from pipelines.dataset.packing.packed import join_rows
from pipelines.dataset.packing.rules import PackingRules
from tests.dataset.chat.conversations import END, format_of, read_template, special_tokenizer


def test_batches_are_bounded_and_keep_the_order(monkeypatch):
    monkeypatch.setattr(group, "BATCH_CHARS", 10)
    monkeypatch.setattr(group, "BATCH_DOCUMENTS", 3)
    texts = ["a" * size for size in (4, 6, 1, 99, 1, 1, 1, 1)]
    records = [{"doc_id": doc_id, "text": text} for doc_id, text in zip("abcdefgh", texts, strict=True)]
    batches = list(group.batch_documents(records))
    assert [len(batch) for batch in batches] == [2, 1, 1, 3, 1]
    assert [document.text for batch in batches for document in batch] == texts


def test_structured_documents_reach_the_builder():
    parts = [[{"name": "user", "text": "q"}, {"name": "assistant", "text": "r"}], None]
    metadata = [[("url", "u")], None]
    types = [("doc_id", pa.string()), ("text", pa.string())]
    types.append(("parts", pa.list_(pa.struct([("name", pa.string()), ("text", pa.string())]))))
    types.append(("metadata", pa.map_(pa.string(), pa.string())))
    table = pa.table(
        {"doc_id": ["a", "b"], "text": ["q\n\nr", "x"], "parts": parts, "metadata": metadata},
        pa.schema(types),
    )
    ((first, second),) = group.batch_documents(table.to_pylist())
    assert first.parts == (("user", "q"), ("assistant", "r"))
    assert first.metadata == {"url": "u"}
    assert (second.parts, second.metadata, second.label) == (None, None, None)


def test_documents_with_a_problem_are_named_and_not_packed():
    tokenizer = special_tokenizer()
    job = group.PackingJob(
        task="chat",
        tokenizer_json=tokenizer.to_str(),
        end_token_id=tokenizer.token_to_id(END),
        labels=(),
        rules=PackingRules(sequence_length=64),
        chat=format_of(read_template("chatml")),
    )
    turns = {"a": "user", "b": "narrator", "c": "user"}
    records = [
        {
            "doc_id": doc_id,
            "text": "hi\n\nho",
            "parts": [{"name": role, "text": "hi"}, {"name": "assistant", "text": "ho"}],
        }
        for doc_id, role in turns.items()
    ]
    count = TokenCount()
    packed = list(group.pack_documents(records, job, count))
    assert [doc_id for sequence in packed for doc_id, _ in sequence.pieces] == ["a", "c"]
    count.remove_rows(join_rows(packed))
    count.require_balance(split="train", group=0, method=job.rules.method)
    problems = dict(group.find_problems(records, job))
    assert (problems["a"], problems["c"]) == (None, None)
    assert problems["b"].startswith("turn 1 has role 'narrator', known are")

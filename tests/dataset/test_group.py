"""Groups of documents, inside one task and without Spark."""

import pyarrow as pa

from pipelines.dataset import group


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

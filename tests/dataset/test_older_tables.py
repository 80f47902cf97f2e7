"""Sequences that an earlier Distributary wrote: what needs a newer column says so, all else is answered."""

import pytest

from pipelines.dataset.reader import open_split
from pipelines.dataset.report.reading import read_content
from pipelines.dataset.trace import SequenceTrace
from tests.sequence_tables import make_rows, name_document, write_sequences_table

NEW = ("source", "num_cut_tokens", "num_continued", "doc_keys")
REMEDY = "because an earlier Distributary wrote it; delete or move the table, and run the dataset stage"


@pytest.fixture
def older(tmp_path, monkeypatch):
    """(rows, pin)"""
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path / "cache"))
    rows = make_rows("train", 20, num_groups=1)
    return rows, write_sequences_table(str(tmp_path / "sequences"), {"train": rows}, lacks=NEW)


def test_a_trace_of_an_older_table_finds_no_document_but_rows(older):
    rows, pinned = older
    found = SequenceTrace(pinned.path, table_id=pinned.table_id, version=pinned.version, split="train")
    message = rf"^version {pinned.version} of the sequences at {pinned.path} has no column doc_keys, {REMEDY}"
    with pytest.raises(ValueError, match=message):
        found.find_document(name_document("train", 3))
    with pytest.raises(ValueError, match=f"has no column source, {REMEDY}"):
        found.read_column("source", ["a"])
    assert found.read_lengths().tolist() == [row["num_tokens"] for row in rows]
    assert found.read_spans([0])[0][0].doc_id == rows[0]["segments"][0]["doc_id"]


def test_an_older_table_has_no_copy_to_train_on(older, tmp_path):
    pinned = older[1]
    with pytest.raises(ValueError, match=f"has no column source, {REMEDY}"):
        open_split(
            pinned.path, table_id=pinned.table_id, version=pinned.version, split="train", copies=tmp_path
        )


def test_there_is_no_report_of_an_older_table(older, spark, tmp_path):
    missing = r"has no column doc_keys, num_continued, num_cut_tokens, source, "
    with pytest.raises(ValueError, match=missing + REMEDY):
        read_content(spark, older[1].path, str(tmp_path), "t")

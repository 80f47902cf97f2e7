"""Sequences that an earlier Distributary wrote: what needs a newer column says so, all else is answered."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.dataset.earlier import Inputs
from pipelines.dataset.longest import read_longest
from pipelines.dataset.packing.rules import PackingRules
from pipelines.dataset.reader import open_split
from pipelines.dataset.report.reading import read_content
from pipelines.dataset.rows import NO_LABEL
from pipelines.dataset.tokenizer_choice import TokenizerChoice
from pipelines.dataset.trace import SequenceTrace
from pipelines.dataset.write import SequenceBuild, write_sequences
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


def test_a_table_without_sets_of_classes_is_read_as_one_without_labels(tmp_path):
    rows = make_rows("train", 20, num_groups=1)
    path = str(tmp_path / "sequences")
    pinned = write_sequences_table(path, {"train": rows}, lacks=("labels",))
    version = {"table_id": pinned.table_id, "version": pinned.version, "split": "train"}
    reader = open_split(path, copies=tmp_path, **version)
    read = reader.rows(np.arange(len(rows)))
    assert [each.tolist() for each in read.input_ids] == [row["input_ids"] for row in rows]
    assert (read.labels.tolist(), read.label_sets) == ([NO_LABEL] * len(rows), None)
    longest = read_longest(path, num_rows=1, **version)
    assert len(longest.rows.input_ids[0]) == max(row["num_tokens"] for row in rows)
    assert (longest.rows.labels.tolist(), longest.rows.label_sets) == ([NO_LABEL], None)


def test_there_is_no_report_of_an_older_table(older, spark, tmp_path):
    with pytest.raises(ValueError, match=f"has no column {', '.join(sorted(NEW))}, {REMEDY}"):
        read_content(spark, older[1].path, str(tmp_path), "t")


def test_an_older_table_is_refused_before_documents_are_read(older, spark, tmp_path):
    build = SequenceBuild(
        task="language_modelling",
        tokenizer=TokenizerChoice(),
        packing=PackingRules(),
        sequences=older[1].path,
        tokenizers=str(tmp_path),
        fingerprint="x",
    )
    no_documents = replace(older[1], path=str(tmp_path / "none"))
    phases = []
    with pytest.raises(ValueError, match=f"has no column {', '.join(sorted(NEW))}, {REMEDY}"):
        write_sequences(spark, Inputs(no_documents, "settings"), build, phase=phases.append)
    assert phases == []

"""Cut gzip files in the stage: documents and quarantine equal those of files that are read as a whole."""

import gzip
import random

from pipelines.corpus.build import open_corpus
from pipelines.corpus.ids import doc_id
from pipelines.corpus.manifest import list_sources
from pipelines.corpus.readers import slices
from pipelines.corpus.rules import Rules
from pipelines.corpus.source import Source
from tests.corpus.test_members import compress_in_members, make_lines


def read_corpus(spark, source, table):
    """(rows of documents, rows of quarantine, number of slices that are read the second time)."""
    with open_corpus(spark, [source], list_sources([source]), Rules()) as corpus:
        with corpus.hold_documents(str(table)) as held:
            documents = held.rows.orderBy("file", "offset").collect()
        quarantine = corpus.quarantine().orderBy("file", "offset").collect()
        return documents, quarantine, corpus.slices.to_arrow().num_rows


def write_files(folder, content):
    """A file with many members; one with a damaged member; one whose members hold others; and plain text."""
    generator = random.Random(11)
    members = compress_in_members(content, generator, 300)
    (folder / "a.jsonl.gz").write_bytes(b"".join(members))
    members[len(members) // 2] = b"\x1f\x8b\x08" + bytes(50)
    (folder / "b.jsonl.gz").write_bytes(b"".join(members))
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(b"".join(members) + b"\n" + content, 0, mtime=0))
    (folder / "d.jsonl").write_bytes(content)


def test_cut_gzip_files_give_the_documents_of_whole_files(spark, tmp_path, monkeypatch):
    raw = tmp_path / "raw"
    raw.mkdir()
    content = make_lines(random.Random(12), 200)
    write_files(raw, content)
    fields = {"text": "t"}
    source = Source(
        name="s", path=str(raw), format="jsonl", fields=fields, splits={"train": 0.5, "test": 0.5}
    )
    *whole, num_whole = read_corpus(spark, source, tmp_path / "whole")
    monkeypatch.setattr(slices, "_FILE_BYTES", 1)
    monkeypatch.setattr(slices, "MIN_SLICE_BYTES", 700)
    monkeypatch.setattr(slices, "FULL_SLICE_BYTES", 700)
    monkeypatch.setattr(slices, "TASKS_PER_SLOT", 1_000)
    *cut, num_cut = read_corpus(spark, source, tmp_path / "cut")
    assert cut == whole
    assert num_whole == 4
    assert num_cut > 20
    documents, quarantine = whole
    # Hashed in Python for whole files, by Spark for cut ones.
    assert all(row.doc_id == doc_id("s", None, row.file, row.offset) for row in documents)
    assert {row.file for row in documents} == {"a.jsonl.gz", "b.jsonl.gz", "c.jsonl.gz", "d.jsonl"}
    plain = [row.offset for row in documents if row.file == "d.jsonl"]
    assert [row.offset for row in documents if row.file == "a.jsonl.gz"] == plain
    damaged = [row for row in quarantine if row.reason.startswith("gzip")]
    assert [row.file for row in damaged] == ["b.jsonl.gz"]

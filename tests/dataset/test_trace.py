"""From rows to documents and back, without Spark, beside a search through all rows."""

import numpy as np
import pytest

from pipelines.dataset import trace
from pipelines.dataset.layout import POSITION_BITS
from pipelines.dataset.spark_hash import hash_modulo, xxhash64
from pipelines.dataset.trace import SequenceTrace, Span
from tests.sequence_tables import make_rows, name_document, write_sequences_table

NUM_GROUPS, NUM_DOCUMENTS = 9, 200


@pytest.fixture(scope="module")
def rows():
    return make_rows("train", NUM_DOCUMENTS, num_groups=NUM_GROUPS)


@pytest.fixture
def opened_files(monkeypatch):
    """Paths of the files that were opened."""
    paths, real = [], trace.open_parquet

    def spy(system, path):
        paths.append(path)
        return real(system, path)

    monkeypatch.setattr(trace, "open_parquet", spy)
    return paths


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRIBUTARY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(folder, rows, **options):
    held_out = make_rows("test", 20, num_groups=NUM_GROUPS)
    path = str(folder / "sequences")
    pinned = write_sequences_table(path, {"train": rows, "test": held_out}, **options)
    return SequenceTrace(path, table_id=pinned.table_id, version=pinned.version, split="train")


def list_spans(rows):
    return [Span(row["sequence_id"], **segment) for row in rows for segment in row["segments"]]


@pytest.mark.parametrize("shuffled", [False, True])
def test_spans_of_rows_are_those_of_the_table(tmp_path, rows, shuffled):
    found = write(tmp_path, rows, shuffled=shuffled)
    assert found.num_rows == len(rows) > 60
    wanted = [5, 0, len(rows) - 1, 17]
    assert found.read_spans(wanted) == {row: list_spans(rows[row : row + 1]) for row in wanted}
    assert rows[17]["sequence_id"] > 2**POSITION_BITS, "ids were dense"


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_document_is_found_in_all_its_segments(tmp_path, rows, shuffled):
    found, spans = write(tmp_path, rows, shuffled=shuffled), list_spans(rows)
    documents = [name_document("train", number) for number in range(0, NUM_DOCUMENTS, 5)]
    for document in documents:
        expected = [span for span in spans if span.doc_id == document]
        assert found.find_document(document) == expected != []
    assert len(spans) > NUM_DOCUMENTS  # some documents have two segments
    assert found.find_document("0" * 32) == []


def test_a_document_with_the_key_of_another_one_is_told_apart(tmp_path, rows):
    found, (span, *_) = write(tmp_path, rows), list_spans(rows)
    assert found.find_document(f"{'0' * 24}{span.doc_id[24:]}") == []


def test_few_files_are_opened_for_a_row(tmp_path, rows, opened_files):
    found = write(tmp_path, rows, rows_per_file=2)
    assert found.numbers.num_rows == len(rows)
    num_first = len(opened_files)  # files with rows of two groups
    assert num_first < NUM_GROUPS
    found.read_spans([20, 21])
    assert len(opened_files) - num_first <= 2


def test_rows_are_numbered_from_the_log_where_files_hold_runs_of_ids(tmp_path, rows, opened_files):
    group = [row for row in rows if row["sequence_id"] >> POSITION_BITS == 4]
    found = write(tmp_path, group)
    assert found.numbers.find_ids(np.arange(len(group))).tolist() == [row["sequence_id"] for row in group]
    assert len(group) > 5
    assert opened_files == []


def test_lengths_are_read_once_and_kept(tmp_path, rows, opened_files):
    found = write(tmp_path, rows, shuffled=True)
    expected, num_files = [row["num_tokens"] for row in rows], -(-len(rows) // 7)
    for _ in range(2):
        assert found.read_lengths().tolist() == expected
        assert len(opened_files) == 2 * num_files  # for the ids, then for the lengths


def test_missing_and_repeated_ids_are_named(tmp_path, rows):
    second = rows[1]["sequence_id"]
    with pytest.raises(ValueError, match=rf"sequence_id of split train has no {second}, but every group has"):
        write(tmp_path / "gap", [rows[0], *rows[2:]]).read_lengths()
    with pytest.raises(ValueError, match=rf"sequence_id of split train repeats {second}, but"):
        write(tmp_path / "twice", [*rows, rows[1]]).read_spans([3])
    last = len(rows) - 1
    with pytest.raises(ValueError, match=rf"there is no row {last + 1}; rows are 0 to {last}"):
        write(tmp_path / "whole", rows).read_spans([last + 1])


def test_a_file_that_a_vacuum_deleted_is_named(tmp_path, rows):
    found = write(tmp_path, rows)
    for file in (tmp_path / "sequences" / "w").glob("*.parquet"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"\.parquet is gone: a VACUUM deleted"):
        found.read_spans([3])


@pytest.mark.parametrize(
    ("text", "seed", "expected"),
    [
        # From the reference implementation, https://github.com/Cyan4973/xxHash.
        ("", 0, 0xEF46DB3751D8E999),
        ("a", 0, 0xD24EC4F1A98C6E5B),
        ("abc", 0, 0x44BC2CF5AD770999),
        ("Nobody inspects the spammish repetition", 0, 0xFBCEA83C8A378BF1),
    ],
)
def test_the_hash_is_that_of_the_reference(text, seed, expected):
    assert xxhash64(text.encode(), seed) == expected


def test_the_hash_modulo_a_number_is_that_of_spark(spark):
    documents = [name_document("train", number) for number in range(300)]
    frame = spark.createDataFrame([(document,) for document in documents], "doc_id STRING")
    rows = frame.selectExpr("doc_id", "pmod(xxhash64(doc_id), 17L) AS `group`").collect()
    assert {row["doc_id"]: row["group"] for row in rows} == {
        each: hash_modulo(each, 17) for each in documents
    }
    assert len(np.unique([row["group"] for row in rows])) == 17

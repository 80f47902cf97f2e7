"""From rows to documents and back, without Spark, beside a search through all rows."""

import numpy as np
import pytest

from pipelines.dataset import trace
from pipelines.dataset.doc_groups import find_group, xxhash64
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
    pinned = write_sequences_table(path, {"train": rows, "test": held_out}, num_groups=NUM_GROUPS, **options)
    return SequenceTrace(path, table_id=pinned.table_id, version=pinned.version, split="train")


def list_spans(rows):
    return [Span(row["sequence_id"], **segment) for row in rows for segment in row["segments"]]


@pytest.mark.parametrize("shuffled", [False, True])
def test_spans_of_rows_are_those_of_the_table(tmp_path, rows, shuffled):
    found = write(tmp_path, rows, shuffled=shuffled)
    assert found.num_rows == len(rows) > 60
    wanted = [5, 0, len(rows) - 1, 17]
    assert found.read_spans(wanted) == {row: list_spans(rows[row : row + 1]) for row in wanted}


@pytest.mark.parametrize(("shuffled", "num_groups"), [(False, NUM_GROUPS), (False, None), (True, NUM_GROUPS)])
def test_a_document_is_found_in_all_its_segments(tmp_path, rows, shuffled, num_groups):
    found, spans = write(tmp_path, rows, shuffled=shuffled), list_spans(rows)
    documents = [name_document("train", number) for number in range(0, NUM_DOCUMENTS, 5)]
    for document in documents:
        expected = [span for span in spans if span.doc_id == document]
        assert found.find_document(document, num_groups=num_groups) == expected != []
    assert len(spans) > NUM_DOCUMENTS  # some documents have two segments
    assert found.find_document("0" * 32, num_groups=num_groups) == []


def test_few_files_are_opened_for_a_row_and_for_a_document(tmp_path, rows, opened_files):
    found = write(tmp_path, rows, rows_per_file=2)
    found.read_spans([20, 21])
    assert len(opened_files) == 1
    opened_files.clear()
    (span,) = [each for each in list_spans(rows)[60:70] if int(each.doc_id, 16) % 5][:1]
    assert found.find_document(span.doc_id, num_groups=NUM_GROUPS) == [span]
    in_group = [row for row in rows if find_group(row["segments"][0]["doc_id"], NUM_GROUPS) == 3]
    assert len(set(opened_files)) < len(rows) // 2 // 2, "the whole table was read"
    assert len(in_group) < 20


def test_lengths_are_read_once_and_kept(tmp_path, rows, opened_files):
    found = write(tmp_path, rows, shuffled=True)
    expected = [row["num_tokens"] for row in rows]
    assert found.read_lengths().tolist() == expected
    assert len(opened_files) == -(-len(rows) // 7)
    assert found.read_lengths().tolist() == expected
    assert len(opened_files) == -(-len(rows) // 7)


def test_a_gap_in_the_numbers_is_named(tmp_path, rows):
    found = write(tmp_path, [*rows[:30], {**rows[30], "sequence_id": 29}, *rows[31:]])
    with pytest.raises(ValueError, match=r"sequence_id of split train must run from 0 to \d+ without gaps"):
        found.read_lengths()
    with pytest.raises(ValueError, match=r"split train of .* has no sequence 30; it has \d+, numb"):
        found.read_spans([30])


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


def test_groups_are_those_that_spark_computes(spark):
    documents = [name_document("train", number) for number in range(300)]
    frame = spark.createDataFrame([(document,) for document in documents], "doc_id STRING")
    rows = frame.selectExpr("doc_id", "pmod(xxhash64(doc_id), 17L) AS `group`").collect()
    assert {row["doc_id"]: row["group"] for row in rows} == {each: find_group(each, 17) for each in documents}
    assert len(np.unique([row["group"] for row in rows])) == 17

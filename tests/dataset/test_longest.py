"""The longest rows of a split, read from one file."""

import pytest

from pipelines.dataset import longest
from pipelines.dataset.longest import read_longest
from tests.sequence_tables import make_rows, write_sequences_table


@pytest.fixture
def table(tmp_path):
    path = str(tmp_path / "sequences")
    rows = {split: make_rows(split, number, num_groups=5) for split, number in (("train", 60), ("test", 9))}
    rows["train"][17] = max(rows["train"], key=lambda row: row["num_tokens"]) | {
        "sequence_id": rows["train"][17]["sequence_id"]
    }
    return write_sequences_table(path, rows), rows


def read(pin, split, num_rows):
    return read_longest(pin.path, table_id=pin.table_id, version=pin.version, split=split, num_rows=num_rows)


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_longest_row_comes_first_with_all_its_values(table, split):
    pin, rows = table
    expected = max(rows[split], key=lambda row: row["num_tokens"])
    found, num_rows = read(pin, split, 3)
    assert num_rows == len(rows[split])
    lengths = [len(each) for each in found.input_ids]
    assert lengths == sorted(lengths, reverse=True)
    assert len(lengths) == 3
    assert lengths[0] == expected["num_tokens"] > lengths[-1]
    assert found.input_ids[0].tolist() == expected["input_ids"]
    assert found.segment_lengths[0].tolist() == [each["num_tokens"] for each in expected["segments"]]
    assert int(found.is_target[0].sum()) == sum(each["num_tokens"] for each in expected["targets"])


def test_a_file_with_fewer_rows_gives_those_it_has(table):
    pin, _ = table
    assert len(read(pin, "train", 100).rows.input_ids) == 7  # rows_per_file


def test_an_empty_split_has_no_rows(table):
    pin, _ = table
    found, num_rows = read(pin, "validation", 3)
    assert (found.input_ids, num_rows) == ([], 0)


def test_of_rows_that_are_all_as_long_only_those_asked_for_are_kept(tmp_path, monkeypatch):
    row = make_rows("train", 3, num_groups=1)[0]
    rows = [row | {"sequence_id": number} for number in range(200)]
    pin = write_sequences_table(
        str(tmp_path / "sequences"), {"train": rows}, rows_per_file=200, rows_per_group=200, shuffled=True
    )
    kept, make = [], longest._make_rows
    monkeypatch.setattr(longest, "_make_rows", lambda table: kept.append(table) or make(table))
    assert len(read(pin, "train", 2).rows.input_ids) == 2
    (table,) = kept
    assert table["sequence_id"].to_pylist() == [0, 1]
    assert table.get_total_buffer_size() < 3 * table.nbytes  # a slice would hold all 200

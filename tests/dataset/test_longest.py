"""The longest rows of a split, read from one file."""

import pytest

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
    found = read(pin, split, 3)
    lengths = [len(each) for each in found.input_ids]
    assert lengths == sorted(lengths, reverse=True)
    assert len(lengths) == 3
    assert lengths[0] == expected["num_tokens"] > lengths[-1]
    assert found.input_ids[0].tolist() == expected["input_ids"]
    assert found.segment_lengths[0].tolist() == [each["num_tokens"] for each in expected["segments"]]
    assert int(found.is_target[0].sum()) == sum(each["num_tokens"] for each in expected["targets"])


def test_a_file_with_fewer_rows_gives_those_it_has(table):
    pin, _ = table
    assert len(read(pin, "train", 100).input_ids) == 7  # rows_per_file


def test_an_empty_split_has_no_rows(table):
    pin, _ = table
    assert read(pin, "validation", 3).input_ids == []

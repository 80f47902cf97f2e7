"""Shards and statistics: without Spark."""

import json
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.column_statistics import summarize_columns
from pipelines.shards import FAULTS, HASH, KEY, Shard, ShardFiles, ShardPlan, make_shard_writer

SCHEMA = pa.schema([("number", pa.int64()), ("split", pa.string())])


def batch(numbers, split="train", *, hashes=None, faults=None):
    splits = [split] * len(numbers) if isinstance(split, str) else split
    columns = {
        "number": pa.array(numbers, pa.int64()),
        "split": pa.array(splits, pa.string()),
        HASH: pa.array(hashes or numbers, pa.int64()),
        FAULTS: pa.array(faults or [0] * len(numbers), pa.int64()),
        KEY: pa.array(numbers, pa.int64()),
    }
    return pa.RecordBatch.from_pydict(columns)


def write(plan, *batches):
    """The one row of the result, and its shards."""
    results = [result.to_pylist() for result in make_shard_writer(plan)(iter(batches))]
    ((row,),) = results
    return row, [Shard(**shard) for shard in json.loads(row["shards"])]


def plan_for(table, **changes):
    return ShardPlan(**{"table": str(table), "folder": "w1", "schema": SCHEMA, "num_rules": 2, **changes})


def test_a_task_measures_the_rows_of_its_files(tmp_path):
    big = 2**62  # three of them do not fit into 64 bits
    hashes = [big, big, big, -5, -7]
    row, shards = write(
        plan_for(tmp_path),
        batch([1, 2, 3], hashes=hashes[:3], faults=[0, 1, 3]),
        batch([4, 5], hashes=hashes[3:], faults=[2, 0]),
    )
    assert (row["num_rows"], int(row["sum"])) == (5, sum(hashes))
    assert row["xor"] == int(np.bitwise_xor.reduce(np.array(hashes)))
    assert row["faults"] == [2, 2]
    (shard,) = shards
    assert pq.read_table(tmp_path / shard.path).to_pydict() == {
        "number": [1, 2, 3, 4, 5],
        "split": ["train"] * 5,
    }
    assert (shard.num_rows, shard.num_bytes) == (5, (tmp_path / shard.path).stat().st_size)


def test_each_value_of_a_partition_has_its_own_shard(tmp_path):
    plan = plan_for(tmp_path, partition_by=("split",))
    _, shards = write(plan, batch([1, 2, 3, 4], ["train", None, "test", "train"]), batch([5], "test"))
    found = {
        shard.partition["split"]: pq.read_table(tmp_path / shard.path)["number"].to_pylist()
        for shard in shards
    }
    assert found == {"train": [1, 4], None: [2], "test": [3, 5]}


def test_shards_end_at_their_size(tmp_path):
    plan = plan_for(tmp_path, shard_bytes=1, row_group_bytes=1)
    _, shards = write(plan, batch([1, 2]), batch([3]), batch([4, 5]))
    assert [shard.num_rows for shard in shards] == [2, 1, 2]
    assert len({shard.path for shard in shards}) == 3


def test_rows_that_wait_are_bounded_over_all_open_shards(tmp_path):
    names = [f"part {n}" for n in range(10)]
    rows = batch([*range(50)], names * 5).select(SCHEMA.names)
    limit = 3 * rows.nbytes
    files = ShardFiles(plan_for(tmp_path, partition_by=("split",), row_group_bytes=limit))
    most = 0
    for _ in range(40):
        files.add(rows)
        most = max(most, sum(shard.waiting_bytes for shard in files._open.values()))
    assert limit / 2 < most < limit
    shards = files.close()
    assert {shard.partition["split"]: shard.num_rows for shard in shards} == dict.fromkeys(names, 200)
    assert sum(pq.ParquetFile(tmp_path / shard.path).num_row_groups for shard in shards) > 2 * len(names)


def test_a_task_without_rows_writes_nothing(tmp_path):
    assert list(make_shard_writer(plan_for(tmp_path))(iter([batch([])]))) == []
    assert list(tmp_path.iterdir()) == []


def test_a_failed_task_deletes_its_files(tmp_path):
    def batches():
        yield batch([1, 2])
        assert list(tmp_path.rglob("*.parquet"))
        raise OSError("the source is gone")

    plan = plan_for(tmp_path, shard_bytes=1, row_group_bytes=1)
    with pytest.raises(OSError, match="the source is gone"):
        list(make_shard_writer(plan)(batches()))
    assert list(tmp_path.rglob("*.parquet")) == []


def test_many_partition_values_keep_few_files_open(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.shards.MAX_OPEN", 2)
    files = ShardFiles(plan_for(tmp_path, partition_by=("split",)))
    for name in ("a", "b", "c", "a"):
        files.add(batch([1], name).select(SCHEMA.names))
        assert len(files._open) <= 2
    assert sorted(shard.partition["split"] for shard in files.close()) == ["a", "a", "b", "c"]


def summary(table):
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=2)
    return json.loads(summarize_columns(pq.ParquetFile(pa.BufferReader(sink.getvalue())).metadata))


def test_statistics_are_those_of_delta():
    moment = datetime(2026, 5, 4, 3, 2, 1, 987654, UTC)
    found = summary(
        pa.table(
            {
                "number": [3, 1, None, 2],
                "name": ["b", "a", "c", None],
                "text": ["x" * 33, "y", "z", "z"],
                "score": [0.5, float("nan"), 1.0, 2.0],  # Parquet says 2.0 is the largest, Spark says NaN
                "when": pa.array([moment] * 4, pa.timestamp("us", "UTC")),
                "raw": [b"1", b"2", None, b"4"],
                "empty": pa.array([None] * 4, pa.string()),
                "ids": [[1], [2], [3], []],
            }
        )
    )
    assert found["numRecords"] == 4
    assert found["minValues"] == {"number": 1, "name": "a", "when": "2026-05-04T03:02:01.987Z"}
    assert found["maxValues"] | {"when": ""} == {"number": 3, "name": "c", "when": ""}
    assert found["nullCount"] == {
        "number": 1,
        "name": 1,
        "text": 0,
        "score": 0,
        "when": 0,
        "raw": 1,
        "empty": 4,
    }

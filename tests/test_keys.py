"""Hashes of keys: what tasks write, and how repeated ones are found. Without Spark."""

import numpy as np
import pyarrow as pa
import pytest

from pipelines.keys import (
    MAX_SUSPECTS,
    NUM_BUCKETS,
    KeyHashes,
    KeyWriter,
    choose_num_ranges,
    find_repeated,
    make_range_reader,
    merge_keys,
    pack_inline,
)


def write_task(table, hashes, *, inline=4, chunk=100, step=7):
    writer = KeyWriter(table=str(table), folder="w/keys", inline=inline, chunk=chunk)
    for first in range(0, len(hashes), step):
        writer.add(np.array(hashes[first : first + step], np.int64))
    return writer.close()


def find_in_all_ranges(table, keys, num_ranges):
    return sorted(
        h for number in range(num_ranges) for h in find_repeated(str(table), keys, number, num_ranges)
    )


def list_files(table):
    return sorted(path for path in table.rglob("*") if path.is_file())


def test_few_keys_need_no_file(tmp_path):
    keys = merge_keys([write_task(tmp_path, [1, 2, 3]), write_task(tmp_path, [4, -5])])
    assert (list_files(tmp_path), keys.files, len(keys.inline)) == ([], (), 8 * 5)
    assert find_repeated(str(tmp_path), keys) == []
    again = merge_keys([keys, write_task(tmp_path, [-5])])
    assert find_repeated(str(tmp_path), again) == [-5]


@pytest.mark.parametrize("num_ranges", [1, 2, 16, NUM_BUCKETS])
def test_every_repeated_key_is_found(tmp_path, num_ranges):
    # Against a count of all hashes, with tasks of all sizes, several files a task, and the ends of the range.
    draw = np.random.default_rng(num_ranges)
    pool = np.append(draw.integers(-(2**63), 2**63 - 1, 3_000), [-(2**63), 2**63 - 1, 0, -1])
    tasks = [draw.choice(pool, size).tolist() for size in (0, 3, 5, 150, 400)]
    tasks += [[-(2**63), 2**63 - 1], [2**63 - 1, -(2**63), -1, -1]]
    keys = merge_keys(write_task(tmp_path, task) for task in tasks)
    assert len(keys.files) == len(list_files(tmp_path)) == 1 + 2 + 4
    values, counts = np.unique([each for task in tasks for each in task], return_counts=True)
    assert find_in_all_ranges(tmp_path, keys, num_ranges) == values[counts > 1].tolist()


def test_a_single_repeated_key_among_many_is_found(tmp_path):
    # A sample of hashes missed it.
    hashes = np.random.default_rng(1).permutation(200_000) * 46_116_860_184_273 - 2**62
    tasks = [part.tolist() for part in np.split(hashes, 20)]
    keys = merge_keys(write_task(tmp_path, task, inline=100, chunk=4_000, step=3_000) for task in tasks)
    assert find_in_all_ranges(tmp_path, keys, 8) == []
    twice = merge_keys([keys, write_task(tmp_path, [tasks[7][123]])])
    assert find_in_all_ranges(tmp_path, twice, 8) == [tasks[7][123]]


def test_a_file_keeps_two_copies_of_a_key(tmp_path):
    (name,) = write_task(tmp_path, [7] * 1_000 + [8] * 2 + [9], chunk=10_000).files
    assert (tmp_path / name).stat().st_size == 4 * (NUM_BUCKETS + 1) + 8 * (2 + 2 + 1)
    assert find_repeated(str(tmp_path), KeyHashes(files=(name,))) == [7, 8]


@pytest.mark.parametrize("num_ranges", [1, 2])
def test_a_key_file_without_its_end_is_an_error(tmp_path, num_ranges):
    keys = write_task(tmp_path, [*range(9), -1])
    file = tmp_path / keys.files[0]
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(OSError, match=r"\.keys has \d of \d+ hashes, so repeated keys could be missed"):
        find_in_all_ranges(tmp_path, keys, num_ranges)


def test_only_the_first_suspects_are_named(tmp_path):
    keys = write_task(tmp_path, [*range(MAX_SUSPECTS + 5), *range(MAX_SUSPECTS + 5)], chunk=10_000)
    assert find_repeated(str(tmp_path), keys) == list(range(MAX_SUSPECTS))


def test_tasks_that_compare_read_files_only(tmp_path):
    keys = merge_keys([write_task(tmp_path, [*range(-9, 9)]), write_task(tmp_path, [5, 5, -9])])
    packed = pack_inline(str(tmp_path), "w/keys", keys)
    assert (packed.inline, len(packed.files)) == (b"", 2)
    read = make_range_reader(str(tmp_path), packed, 4)
    ranges = (pa.RecordBatch.from_pydict({"id": numbers}) for numbers in ([0, 1], [2, 3]))
    assert sorted(found for batch in read(ranges) for found in batch["hash"].to_pylist()) == [-9, 5]


def test_a_failed_task_deletes_its_key_files(tmp_path):
    writer = KeyWriter(table=str(tmp_path), folder="w/keys", inline=1, chunk=2)
    writer.add(np.array([1, 2, 3], np.int64))
    assert len(list_files(tmp_path)) == 1
    writer.abandon()
    assert list_files(tmp_path) == []


def test_ranges_grow_with_keys_up_to_the_buckets():
    assert [choose_num_ranges(n, 10) for n in (0, 10, 11, 20, 21, 161, 10**9)] == [
        1,
        1,
        2,
        2,
        4,
        32,
        NUM_BUCKETS,
    ]

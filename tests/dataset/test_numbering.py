"""Numbers of rows, beside a sorted list of all ids, and the files that they are in. No Spark."""

import numpy as np
import pytest

from pipelines.dataset.earlier import FullBuildNeededError, find_shards, require_measured
from pipelines.dataset.numbering import find_id_runs, number_rows
from pipelines.dataset.pinned_files import open_version
from pipelines.pin import open_log
from tests.sequence_tables import make_rows, write_sequences_table


def make_ids(seed):
    generator = np.random.default_rng(seed)
    groups = sorted(generator.choice(2**31, size=7, replace=False).tolist())
    ids = [group << 32 | place for group in groups for place in range(int(generator.integers(1, 20)))]
    return ids, generator


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("num_files", [1, 4])
def test_rows_are_ranks_of_ids(seed, num_files):
    ids, generator = make_ids(seed)
    for order in (ids, generator.permutation(ids)):
        files = np.array_split(np.array(order), num_files)
        numbers = number_rows(map(find_id_runs, files), "train")
        assert numbers.num_rows == len(ids)
        assert len(numbers.first) <= 7
        assert numbers.find_rows(np.array(ids)).tolist() == list(range(len(ids)))
        assert numbers.find_ids(np.arange(len(ids))[::-1]).tolist() == ids[::-1]


def test_ids_that_are_not_there_have_no_row():
    numbers = number_rows([find_id_runs(np.array([0, 1, 5 << 32]))], "train")
    assert numbers.find_rows(np.array([-1, 2, 5 << 32, (5 << 32) + 1, 4 << 32])).tolist() == [
        -1,
        -1,
        2,
        -1,
        -1,
    ]
    assert number_rows([], "train").find_rows(np.array([0])).tolist() == [-1]


@pytest.mark.parametrize("row", [-1, 3])
def test_rows_that_are_not_there_are_refused(row):
    numbers = number_rows([find_id_runs(np.arange(3))], "train")
    with pytest.raises(ValueError, match=f"there is no row {row}; rows are 0 to 2"):
        numbers.find_ids(np.array([0, row]))


@pytest.mark.parametrize("seed", range(20))
def test_an_id_that_is_missing_or_there_twice_is_named(seed):
    ids, generator = make_ids(seed)
    place = int(generator.choice([at for at in range(len(ids) - 1) if ids[at + 1] == ids[at] + 1]))
    twice = [find_id_runs(np.array(ids)), find_id_runs(np.array(ids[place : place + 1]))]
    with pytest.raises(ValueError, match=f"split train repeats {ids[place]}, but"):
        number_rows(twice, "train")
    with pytest.raises(ValueError, match=f"split train has no {ids[place]}, but"):
        number_rows([find_id_runs(np.array(ids[:place] + ids[place + 1 :]))], "train")


def test_a_version_that_is_gone_has_no_log(tmp_path):
    pinned = write_sequences_table(str(tmp_path / "t"), {"train": make_rows("train", 9, num_groups=2)})
    log = open_version(pinned.path, pinned.version)
    assert log is not None
    assert log.version == pinned.version
    assert open_version(pinned.path, pinned.version + 1) is None
    assert open_version(str(tmp_path / "none"), 0) is None


def test_shards_are_found_by_their_group(tmp_path):
    rows = make_rows("train", 60, num_groups=3)
    of_group = [[row for row in rows if row["sequence_id"] >> 32 == group] for group in range(3)]
    path = str(tmp_path / "t")
    # `write_sequences_table` begins a file for each of these, as a task does.
    write_sequences_table(path, dict(enumerate(of_group)), rows_per_file=100)
    log = open_log(path)
    assert len(log.list_shards()) == 3
    found = {group: find_shards(log, [group], range(3)) for group in range(3)}
    assert sorted(name for names in found.values() for name in names) == sorted(log.list_shards())
    assert [log.list_shards()[name] for (name,) in found.values()] == [len(group) for group in of_group]
    assert find_shards(log, [7], range(8)) == []
    with pytest.raises(FullBuildNeededError, match="has groups that its documents do not give now"):
        find_shards(log, [1], [0, 1])
    write_sequences_table(str(tmp_path / "mixed"), {"train": rows}, rows_per_file=100)
    with pytest.raises(FullBuildNeededError, match="moved sequences of several groups into one file"):
        find_shards(open_log(str(tmp_path / "mixed")), [1], range(3))


def test_rows_that_are_not_those_of_the_log_are_refused(tmp_path):
    rows = {split: make_rows(split, number, num_groups=1) for split, number in (("train", 9), ("test", 5))}
    path = str(tmp_path / "t")
    write_sequences_table(path, rows, rows_per_file=2)
    log = open_log(path)
    counts = {split: len(of) for split, of in rows.items()}
    require_measured(log, list(log.list_shards()), counts)
    require_measured(log, [], {})
    for wrong in (
        {**counts, "train": counts["train"] - 1},
        {"train": counts["train"]},
        {"train": counts["train"], None: counts["test"]},
    ):
        with pytest.raises(FullBuildNeededError, match="their rows lack `split`, or are not as many as"):
            require_measured(log, list(log.list_shards()), wrong)

import gc
import os
import subprocess
import sys
import time
import uuid

import numpy as np
import pytest
from deltalake import DeltaTable

from pipelines.dataset.arrays import copy_name
from pipelines.dataset.local_copies import make_room
from pipelines.dataset.reader import SequenceReader, open_split, write_split
from pipelines.dataset.rows import NO_LABEL, Rows
from pipelines.tables import SEQUENCES

CLASSES = "test"
"""The split of the table below whose rows have a class."""


def sequence(number: int, split: str, shift: int) -> tuple:
    """number % 5 + 1 tokens; from three tokens on in two segments. Targets: all tokens that have context, or
    a class."""
    num_tokens = 1 + number % 5
    lengths = [num_tokens] if num_tokens < 3 else [num_tokens - 1, 1]
    tokens = list(range(number + shift, number + shift + num_tokens))
    segments = [
        ("d", first, length, 0, 1) for first, length in zip((0, num_tokens - 1), lengths, strict=False)
    ]
    runs = [(1, lengths[0] - 1)] if lengths[0] > 1 else []
    label, runs, num_targets = (number, [], 1) if split == CLASSES else (None, runs, lengths[0] - 1)
    counts = (num_targets, 10 * number, 0, 0)
    return (
        number,
        split,
        f"s{number % 2}",
        tokens,
        num_tokens,
        label,
        None,
        runs,
        *counts,
        segments,
        [13] * len(segments),
    )


@pytest.fixture(scope="module")
def table(spark, tmp_path_factory):
    """Rows in several files, not in the order of their ids; the newest version is not the pinned one."""
    path = str(tmp_path_factory.mktemp("reader") / "sequences")

    def rows(shift: int):
        numbers = [(number, split) for split, size in (("train", 23), (CLASSES, 4)) for number in range(size)]
        made = [sequence(number, split, shift) for number, split in numbers]
        return spark.createDataFrame(made, SEQUENCES.schema).repartition(3)

    first = SEQUENCES.overwrite(rows(0), path, fingerprint="first", facts={})
    SEQUENCES.overwrite(rows(100), path, fingerprint="second", facts={})
    return first


def opened(table, copies, split="train", **changes):
    pinned = {"table_id": table.table_id, "version": table.version, **changes}
    return open_split(table.path, **pinned, split=split, copies=copies)


def listed(arrays) -> list[list]:
    return [array.tolist() for array in arrays]


def test_rows_are_of_the_pinned_version_in_the_order_asked_for(table, tmp_path):
    reader = opened(table, tmp_path)
    assert len(reader) == 23
    rows = reader.rows(np.array([7, 0, 22]))
    assert listed(rows.input_ids) == [[7, 8, 9], [0], [22, 23, 24]]
    assert listed(rows.is_target) == [[False, True, False], [False], [False, True, False]]
    assert listed(rows.segment_lengths) == [[2, 1], [1], [2, 1]]
    assert rows.labels.tolist() == [NO_LABEL] * 3
    assert rows.num_targets.tolist() == [1, 0, 1]
    assert rows.num_bytes.tolist() == [70, 0, 220]
    assert reader.lengths.tolist() == [1 + number % 5 for number in range(23)]
    assert reader.num_targets.tolist() == [sequence(number, "train", 0)[8] for number in range(23)]


def test_the_source_of_each_row_is_known(table, tmp_path):
    reader = opened(table, tmp_path)
    assert reader.source_names == ["s0", "s1"]
    assert reader.source_codes.tolist() == [number % 2 for number in range(23)]


def test_classes_are_read_as_labels(table, tmp_path):
    rows = opened(table, tmp_path, CLASSES).rows(np.array([3, 1]))
    assert rows.labels.tolist() == [3, 1]
    assert rows.num_targets.tolist() == [1, 1]
    assert listed(rows.is_target) == [[False] * 4, [False] * 2]


def test_types_are_those_of_the_contract(table, tmp_path):
    rows = opened(table, tmp_path).rows(np.array([4]))
    assert [array[0].dtype.name for array in rows[:3]] == ["int32", "bool", "int32"]
    assert [array.dtype.name for array in rows[3:6]] == ["int64"] * 3


def test_copy_is_read_without_delta(table, tmp_path):
    made = opened(table, tmp_path)
    again = open_split(
        "/nowhere", table_id=table.table_id, version=table.version, split="train", copies=tmp_path
    )
    assert listed(again.rows(np.arange(23)).input_ids) == listed(made.rows(np.arange(23)).input_ids)


def test_copy_of_an_older_format_is_not_read(table, tmp_path):
    older = tmp_path / f"{table.table_id}-{table.version}-train"
    older.mkdir()
    (older / "tokens.npy").write_bytes(b"another layout")
    assert len(opened(table, tmp_path)) == 23


def test_reader_needs_no_pyspark_and_no_torch(table, tmp_path):
    code = (
        "import sys; from pathlib import Path; from pipelines.dataset.reader import open_split; "
        f"r = open_split({table.path!r}, table_id={table.table_id!r}, version={table.version}, "
        "split='train', "
        f"copies=Path({str(tmp_path)!r})); "
        "print(len(r), 'pyspark' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["23", "False", "False"]


def test_token_table_needs_reader_protocol_1_only(table):
    protocol = DeltaTable(table.path).protocol()
    assert protocol.min_reader_version == 1
    assert not protocol.reader_features


def test_unfinished_copy_is_never_used(table, tmp_path, monkeypatch):
    import pipelines.dataset.reader as reader

    def fail(files, split, folder, **options):
        (folder / "tokens.npy").write_bytes(b"half")
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(reader, "copy_split", fail)
        with pytest.raises(OSError, match="No space left"):
            opened(table, tmp_path)
    assert len(opened(table, tmp_path)) == 23


def test_another_table_or_a_missing_version_is_refused(table, tmp_path):
    with pytest.raises(ValueError, match="were deleted and written again"):
        opened(table, tmp_path, table_id="another")
    with pytest.raises(FileNotFoundError, match="no longer have version 99"):
        opened(table, tmp_path, version=99)


def test_ids_with_gaps_are_refused(spark, tmp_path):
    rows = spark.createDataFrame([sequence(number, "train", 0) for number in (0, 2)], SEQUENCES.schema)
    made = SEQUENCES.overwrite(rows, str(tmp_path / "gaps"), fingerprint="gaps", facts={})
    with pytest.raises(
        ValueError, match="split train has no 1, but every group has ids from its first without gaps"
    ):
        opened(made, tmp_path)


def test_missing_split_has_no_rows(table, tmp_path):
    assert len(opened(table, tmp_path, "validation")) == 0


def random_rows(seed: int, num_rows: int = 50) -> Rows:
    """Rows of several segments whose tokens are all targets but for the first of each segment."""
    generator = np.random.default_rng(seed)
    lengths = [
        generator.integers(1, 6, size=generator.integers(1, 5)).astype(np.int32) for _ in range(num_rows)
    ]
    sizes = [int(each.sum()) for each in lengths]
    is_target = [np.concatenate([np.arange(size) > 0 for size in each]) for each in lengths]
    return Rows(
        input_ids=[generator.integers(0, 1000, size).astype(np.int32) for size in sizes],
        is_target=is_target,
        segment_lengths=lengths,
        labels=np.full(num_rows, NO_LABEL),
        num_targets=np.array([int(each.sum()) for each in is_target]),
        num_bytes=generator.integers(0, 99, num_rows),
    )


@pytest.mark.parametrize("seed", range(3))
def test_written_rows_are_read_back(tmp_path, seed):
    rows = random_rows(seed)
    write_split(tmp_path, rows)
    order = np.random.default_rng(seed).permutation(50)
    read = SequenceReader(tmp_path).rows(order)
    for given, found in zip(rows, read, strict=True):
        if given is not None:
            assert all(np.array_equal(given[row], found[place]) for place, row in enumerate(order))
    assert read.label_sets is None


def test_written_split_opens_without_a_table(tmp_path):
    rows = random_rows(0)
    write_split(tmp_path / copy_name("made-by-hand", 3, "train"), rows)
    reader = open_split("/nowhere", table_id="made-by-hand", version=3, split="train", copies=tmp_path)
    assert reader.lengths.tolist() == [len(tokens) for tokens in rows.input_ids]


def test_sources_of_written_rows_are_read_back(tmp_path):
    write_split(tmp_path, random_rows(0), [f"s{row % 3}" for row in range(50)])
    reader = SequenceReader(tmp_path)
    assert [reader.source_names[code] for code in reader.source_codes] == [f"s{row % 3}" for row in range(50)]


def test_empty_split_is_written_and_read(tmp_path):
    write_split(tmp_path, random_rows(0, num_rows=0))
    assert len(SequenceReader(tmp_path)) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segment_lengths": [np.array([2, 2])]}, "segments that do not add up to num_tokens"),
        ({"segment_lengths": [np.array([3, 0])]}, "segments that do not add up to num_tokens"),
        ({"is_target": [np.array([False, True, True])]}, "a target that is the first token of its segment"),
        ({"is_target": [np.array([True, False, False])]}, "a target that is the first token of its segment"),
        ({"num_targets": np.array([2])}, "targets that do not add up to num_targets"),
        ({"labels": np.array([4])}, "targets that do not add up to num_targets"),
    ],
)
def test_rows_that_contradict_themselves_are_refused(tmp_path, change, message):
    sound = Rows(
        input_ids=[np.array([5, 6, 7])],
        is_target=[np.array([False, True, False])],
        segment_lengths=[np.array([2, 1])],
        labels=np.array([NO_LABEL]),
        num_targets=np.array([1]),
        num_bytes=np.array([3]),
    )
    write_split(tmp_path, sound)
    with pytest.raises(ValueError, match=f"row 0 of the split has {message}"):
        write_split(tmp_path, sound._replace(**change))


def test_only_copies_unused_for_a_week_are_pruned(table, tmp_path):
    old = time.time() - 8 * 24 * 3600
    stale, former, linked = (tmp_path / f"{uuid.uuid4()}-3-train{end}" for end in ("-2", "", "-2"))
    half, foreign = tmp_path / ".making-x", tmp_path / "thesis"
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    for folder in (stale, former, half, foreign, elsewhere):
        folder.mkdir()
        os.utime(folder, (old, old))
    linked.symlink_to(elsewhere)
    assert len(opened(table, tmp_path)) == 23  # making a copy prunes old ones
    kept = [folder.exists() for folder in (stale, former, half, foreign, elsewhere)]
    assert kept == [False, False, False, True, True]


def test_the_copy_of_a_reader_that_lives_is_not_deleted(tmp_path):
    name = copy_name(str(uuid.uuid4()), 3, "train")
    write_split(tmp_path / name, random_rows(0))
    reader = open_split("/nowhere", table_id=name[:36], version=3, split="train", copies=tmp_path)
    make_room(tmp_path, 1, max_bytes=1)
    assert (tmp_path / name).exists()
    assert len(reader) == 50
    del reader
    gc.collect()
    make_room(tmp_path, 1, max_bytes=1)
    assert not (tmp_path / name).exists()

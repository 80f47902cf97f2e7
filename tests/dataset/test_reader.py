import os
import subprocess
import sys
import time
import uuid

import numpy as np
import pytest
from deltalake import DeltaTable

from pipelines.dataset.reader import NO_LABEL, open_split
from pipelines.tables import SEQUENCES


@pytest.fixture(scope="module")
def table(spark, tmp_path_factory):
    """Rows in several files, not in the order of their ids; the newest version is another one than the pinned one."""
    path = str(tmp_path_factory.mktemp("reader") / "sequences")

    def rows(shift: int):
        return spark.createDataFrame(
            [
                (
                    number,
                    split,
                    list(range(number + shift, number + shift + 1 + number % 5)),
                    1 + number % 5,
                    None if split == "train" else number,
                    number % 5,
                    10 * number,
                    [("d", 0, 1, 0, 1)],
                )
                for split, size in (("train", 23), ("test", 4))
                for number in range(size)
            ],
            SEQUENCES.schema,
        ).repartition(3)

    first = SEQUENCES.overwrite(rows(0), path, fingerprint="first", facts={})
    SEQUENCES.overwrite(rows(100), path, fingerprint="second", facts={})
    return first


def test_rows_are_those_of_the_pinned_version_in_the_order_asked_for(table, tmp_path):
    reader = open_split(
        table.path, table_id=table.table_id, version=table.version, split="train", copies=tmp_path
    )
    assert len(reader) == 23
    rows = reader.rows(np.array([7, 0, 22]))
    assert [tokens.tolist() for tokens in rows.input_ids] == [[7, 8, 9], [0], [22, 23, 24]]
    assert rows.labels.tolist() == [NO_LABEL] * 3
    assert rows.num_bytes.tolist() == [70, 0, 220]
    assert reader.lengths.tolist() == [1 + number % 5 for number in range(23)]
    assert open_split(
        table.path, table_id=table.table_id, version=table.version, split="test", copies=tmp_path
    ).rows(np.array([3])).labels.tolist() == [3]


def test_it_reads_without_pyspark(table, tmp_path):
    code = (
        "import sys; from pathlib import Path; from pipelines.dataset.reader import open_split; "
        f"r = open_split({table.path!r}, table_id={table.table_id!r}, version={table.version}, split='train', "
        f"copies=Path({str(tmp_path)!r})); "
        "print(len(r), 'pyspark' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["23", "False", "False"]


def test_the_token_table_can_be_read_with_reader_protocol_1(table):
    protocol = DeltaTable(table.path).protocol()
    assert protocol.min_reader_version == 1
    assert not protocol.reader_features


def test_a_half_made_copy_is_never_used(table, tmp_path, monkeypatch):
    import pipelines.dataset.reader as reader

    def broken(*arguments):
        (arguments[2] / "tokens.npy").write_bytes(b"half")
        raise OSError("No space left on device")

    whole = reader._copy
    monkeypatch.setattr(reader, "_copy", broken)
    with pytest.raises(OSError, match="No space left"):
        open_split(table.path, table_id=table.table_id, version=table.version, split="train", copies=tmp_path)
    monkeypatch.setattr(reader, "_copy", whole)
    assert (
        len(
            open_split(
                table.path, table_id=table.table_id, version=table.version, split="train", copies=tmp_path
            )
        )
        == 23
    )


def test_another_table_at_the_path_and_a_version_that_is_not_there_are_refused(table, tmp_path):
    with pytest.raises(ValueError, match="were made anew"):
        open_split(table.path, table_id="another", version=table.version, split="train", copies=tmp_path)
    with pytest.raises(FileNotFoundError, match="have no version 99 any more"):
        open_split(table.path, table_id=table.table_id, version=99, split="train", copies=tmp_path)


def test_ids_with_gaps_are_refused(spark, tmp_path):
    gapped = [(number, "train", [1], 1, None, 0, 1, [("d", 0, 1, 0, 1)]) for number in (0, 2)]
    rows = spark.createDataFrame(gapped, SEQUENCES.schema)
    made = SEQUENCES.overwrite(rows, str(tmp_path / "gaps"), fingerprint="gaps", facts={})
    with pytest.raises(ValueError, match="from 0 to 1 without gaps"):
        open_split(made.path, table_id=made.table_id, version=made.version, split="train", copies=tmp_path)


def test_copies_nobody_opened_for_a_week_go_and_nothing_else_does(table, tmp_path):
    def opened():
        return open_split(
            table.path, table_id=table.table_id, version=table.version, split="train", copies=tmp_path
        )

    old = time.time() - 8 * 24 * 3600
    stale, linked = (tmp_path / f"{uuid.uuid4()}-3-train" for _ in range(2))
    half, foreign = tmp_path / ".making-x", tmp_path / "thesis"
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    for folder in (stale, half, foreign, elsewhere):
        folder.mkdir()
        os.utime(folder, (old, old))
    linked.symlink_to(elsewhere)
    assert len(opened()) == 23  # making a copy is when old ones go
    assert [folder.exists() for folder in (stale, half, foreign, elsewhere)] == [False, False, True, True]

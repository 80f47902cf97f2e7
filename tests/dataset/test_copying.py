"""The copy of a split on a machine: bounded, continued after a kill, refused where the disk is too small."""

import errno
import json
import os
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from pipelines.dataset import copying, local_copies
from pipelines.dataset.arrays import FlatArrays
from pipelines.dataset.local_copies import open_copy
from pipelines.dataset.reader import SequenceReader

ROWS_PER_FILE, NUM_FILES = 50, 6
SOURCES = ["web", "books", "码"]
SEGMENT = pa.struct([("doc_id", pa.string()), ("first_token", pa.int32()), ("num_tokens", pa.int32())])
RUN = pa.struct([("first_token", pa.int32()), ("num_tokens", pa.int32())])
SCHEMA = pa.schema(
    [
        ("sequence_id", pa.int64()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("num_tokens", pa.int32()),
        ("label", pa.int32()),
        ("labels", pa.list_(pa.int32())),
        ("targets", pa.list_(RUN)),
        ("num_targets", pa.int32()),
        ("num_bytes", pa.int32()),
        ("segments", pa.list_(SEGMENT)),
    ]
)
"""What is copied of the sequences table, spelled out: no Spark session to parse its definition."""


def write_files(
    folder: Path, *, num_files: int = NUM_FILES, ids=None, width: int = 1, group_rows: int = 50
) -> pads.Dataset:
    """Files of split train; row i holds (i % 7 + 1) * width tokens i, i + 1, ..."""
    folder.mkdir()
    ids = np.arange(num_files * ROWS_PER_FILE) if ids is None else np.asarray(ids)
    for number, mine in enumerate(np.array_split(ids, num_files)):
        rows = []
        for row in mine.tolist():
            size = (row % 7 + 1) * width
            segment = {"doc_id": "d", "first_token": 0, "num_tokens": size}
            runs = [{"first_token": 1, "num_tokens": size - 1}] if size > 1 else []
            rows.append(
                {
                    "sequence_id": row,
                    "split": "train",
                    "source": SOURCES[row % len(SOURCES)],
                    "input_ids": list(range(row % 2**16, row % 2**16 + size)),
                    "num_tokens": size,
                    "label": None,
                    "targets": runs,
                    "num_targets": size - 1,
                    "num_bytes": row % 2**16,
                    "segments": [segment],
                }
            )
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=group_rows)
    return pads.dataset(folder)


def check_rows(folder: Path, num_rows: int) -> None:
    reader = SequenceReader(folder)
    assert len(reader) == num_rows
    order = np.random.default_rng(1).permutation(num_rows)
    rows = reader.rows(order)
    for place, row in enumerate(order.tolist()):
        size = row % 7 + 1
        assert rows.input_ids[place].tolist() == list(range(row, row + size))
        assert rows.is_target[place].tolist() == [False] + [True] * (size - 1)
        assert (rows.num_bytes[place], rows.num_targets[place]) == (row, size - 1)
    assert reader.source_names == sorted(SOURCES)
    assert [reader.source_names[code] for code in reader.source_codes[:7]] == (SOURCES * 3)[:7]


def test_files_without_the_column_of_their_partition_are_read(tmp_path):
    """As other programs write them: only the log says which split a file is of, in a folder of any name."""
    rows = write_files(tmp_path / "files").to_table()
    half, number = rows.num_rows // 2, rows.column_names.index("split")
    tested = rows.slice(0, half).set_column(number, "split", pa.array(["test"] * half))
    rows = pa.concat_tables([rows, tested])
    path = tmp_path / "table"
    write_deltalake(path, rows, partition_by=["split"])
    (path / "split=train").rename(path / "moved")
    log = path / "_delta_log" / f"{0:020}.json"
    log.write_text(log.read_text().replace('"path":"split=train/', '"path":"moved/'))

    table = DeltaTable(path)
    files = table.to_pyarrow_dataset()
    names = [set(fragment.physical_schema.names) for fragment in files.get_fragments()]
    assert len(names) == 2
    assert not any("split" in each for each in names)
    assert any(name.startswith("moved/") for name in files.files)
    for split, num_rows in (("train", 2 * half), ("test", half)):
        (tmp_path / split).mkdir()
        copying.copy_split(files, split, tmp_path / split)
        check_rows(tmp_path / split, num_rows)


@pytest.mark.parametrize("shuffled", [False, True])
def test_files_in_any_order_give_the_rows_by_id(tmp_path, shuffled):
    ids = np.random.default_rng(0).permutation(NUM_FILES * ROWS_PER_FILE) if shuffled else None
    files = write_files(tmp_path / "files", ids=ids)
    (tmp_path / "copy").mkdir()
    copying.copy_split(files, "train", tmp_path / "copy")
    check_rows(tmp_path / "copy", NUM_FILES * ROWS_PER_FILE)


KILLED = """
import os, sys
from pathlib import Path
import pyarrow.dataset as pads
from pipelines.dataset import copying
from pipelines.dataset.arrays import FlatArrays
from pipelines.dataset.local_copies import open_copy

copying.NUM_THREADS = 1
put, calls = FlatArrays.put, []

def put_and_die(self, rows):
    calls.append(1)
    if len(calls) == 4:
        os.kill(os.getpid(), 9)
    put(self, rows)

FlatArrays.put = put_and_die
files = pads.dataset(sys.argv[1])
with open_copy(Path(sys.argv[2]), "copy", lambda folder: copying.copy_split(files, "train", folder)):
    pass
"""


def test_killed_copy_continues_with_the_files_left(tmp_path, monkeypatch):
    files = write_files(tmp_path / "files")
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-c", KILLED, str(tmp_path / "files"), str(home)]
    assert subprocess.run(command, check=False).returncode == -9
    assert not (home / "copy").exists()
    done = (home / ".making-copy" / "done").read_text().splitlines()
    assert 1 <= len(done) <= 3
    put, num_puts = FlatArrays.put, []
    monkeypatch.setattr(FlatArrays, "put", lambda self, rows: num_puts.append(1) or put(self, rows))
    with open_copy(home, "copy", lambda folder: copying.copy_split(files, "train", folder)) as folder:
        check_rows(folder, NUM_FILES * ROWS_PER_FILE)
    assert len(num_puts) == NUM_FILES - len(done)
    assert sorted(path.name for path in home.iterdir()) == ["copy", "copy.lock"]


@pytest.mark.parametrize(("call", "number"), [("unlink", 0), ("unlink", 1), ("unlink", 2), ("rename", 0)])
def test_copy_killed_at_its_end_has_every_row(tmp_path, monkeypatch, call, number):
    """A kill at each of the last calls, which remove the notes and give the copy its name."""
    files, home = write_files(tmp_path / "files"), tmp_path / "home"
    home.mkdir()
    real, calls = getattr(Path, call), []

    def killed(path, *args, **options):
        calls.append(path)
        if len(calls) > number:
            raise KeyboardInterrupt
        return real(path, *args, **options)

    def copy(folder):
        copying.copy_split(files, "train", folder)

    with monkeypatch.context() as patched:
        patched.setattr(Path, call, killed)
        with pytest.raises(KeyboardInterrupt), open_copy(home, "copy", copy):
            pass
    assert len(calls) == number + 1
    with open_copy(home, "copy", copy) as folder:
        check_rows(folder, NUM_FILES * ROWS_PER_FILE)


@pytest.mark.parametrize(
    ("ids", "fault"), [([0, 1, 3], "has no 2"), ([0, 1, 1], "repeats 1"), ([2**32 + 1], f"has no {2**32}")]
)
def test_ids_that_are_missing_or_there_twice_are_refused(tmp_path, ids, fault):
    files = write_files(tmp_path / "files", num_files=1, ids=ids)
    (tmp_path / "copy").mkdir()
    with pytest.raises(ValueError, match=f"sequence_id of split train {fault}, but every group"):
        copying.copy_split(files, "train", tmp_path / "copy")


def test_rows_are_ranks_of_ids_of_several_groups(tmp_path):
    ids = [group << 32 | position for group in (0, 3, 2**31 - 1) for position in range(40)]
    files = write_files(tmp_path / "files", num_files=4, ids=np.random.default_rng(2).permutation(ids))
    (tmp_path / "copy").mkdir()
    copying.copy_split(files, "train", tmp_path / "copy")
    reader = SequenceReader(tmp_path / "copy")
    assert reader.lengths.tolist() == [number % 7 + 1 for number in ids]
    assert [reader.source_names[code] for code in reader.source_codes] == [SOURCES[each % 3] for each in ids]


def test_too_small_disk_is_refused_before_the_values(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(local_copies.shutil, "disk_usage", lambda path: usage(10**4, 0, 10**4))
    monkeypatch.setattr(FlatArrays, "put", lambda self, rows: pytest.fail("values were read"))
    files = write_files(tmp_path / "files")
    home = tmp_path / "home"
    home.mkdir()
    with (
        pytest.raises(OSError, match="set DISTRIBUTARY_CACHE to a larger disk") as caught,
        open_copy(home, "copy", lambda folder: copying.copy_split(files, "train", folder)),
    ):
        pass
    assert caught.value.errno == errno.ENOSPC
    assert sorted(path.name for path in home.iterdir()) == ["copy.lock"]


def test_copies_together_stay_within_their_limit(tmp_path):
    """A copy of these files takes 57 kB in blocks of 4 kB, so that two fit."""
    files, home = write_files(tmp_path / "files"), tmp_path / "home"
    home.mkdir()
    names = [f"{number:08d}-0000-0000-0000-000000000000-1-train-2" for number in range(3)]

    def copy(folder, max_bytes=125_000):
        copying.copy_split(files, "train", folder, max_bytes=max_bytes)

    for age, name in enumerate(names):
        with open_copy(home, name, copy):
            os.utime(home / name, (time.time() - 9 + age,) * 2)
    assert [name for name in names if (home / name).exists()] == names[1:]
    said = r"of the 0\.0 GB of finetune.max_copies_gb .* or raise the limit"
    with (
        pytest.raises(OSError, match=said) as caught,
        open_copy(home, "copy", lambda folder: copy(folder, max_bytes=9_000)),
    ):
        pass
    assert caught.value.errno == errno.ENOSPC


MEASURED = """
import json, sys, tracemalloc
from pathlib import Path
import pyarrow as pa, pyarrow.dataset as pads
from pipelines.dataset import copying
copying.BATCH_ROWS = 16
files = pads.dataset(sys.argv[1])
tracemalloc.start()
copying.copy_split(files, "train", Path(sys.argv[2]))
print(json.dumps([tracemalloc.get_traced_memory()[1], pa.default_memory_pool().max_memory()]))
"""


def measure_copy(place: Path, num_rows: int, **layout) -> tuple[int, int]:
    """Most bytes that Python and NumPy held during a copy, and most bytes that Arrow held."""
    files, copy = place / f"files{num_rows}", place / f"copy{num_rows}"
    write_files(files, num_files=4, ids=range(num_rows), **layout)
    copy.mkdir()
    command = [sys.executable, "-c", MEASURED, str(files), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ.copy())
    held, by_arrow = json.loads(done.stdout)
    return held, by_arrow


def test_index_of_the_rows_is_not_in_memory(tmp_path):
    small, large = (measure_copy(tmp_path, num, group_rows=num)[0] for num in (2_000, 8_000))
    assert large - small < 4 * 6_000  # an int64 per row would take twice as much; threads take a little


def test_files_are_not_held_in_memory(tmp_path):
    small, large = (measure_copy(tmp_path, num, width=50, group_rows=250)[1] for num in (1_000, 8_000))
    assert large < 2 * small  # how the threads meet makes a difference; the tokens are 5.6 MB more

"""Files to rows on executors. Expected values are written by hand."""

import gzip
import json
import platform
from functools import partial

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from pyspark.errors import PythonException

from pipelines.corpus.manifest import Manifest, list_sources
from pipelines.corpus.quarantine import number_lines
from pipelines.corpus.readers import files, slices
from pipelines.corpus.readers.files import read_documents, read_positions
from pipelines.corpus.readers.format import Slice
from pipelines.corpus.readers.mapping import Mapper
from pipelines.corpus.readers.rows import DOCUMENT_ROWS, make_position
from pipelines.corpus.source import Source
from pipelines.storage import locate

LINES = [json.dumps({"t": f"第{number}行 line", "id": number}, ensure_ascii=False) for number in range(200)]


def jsonl(path, **knobs):
    return Source(**{"name": "s", "path": str(path), "format": "jsonl", "fields": {"text": "t"}, **knobs})


def cut(source, slice_bytes=2**25):
    return slices.cut_files(list_sources([source]), [source], slice_bytes)


def read_all(spark, source, slice_bytes=2**25):
    """(number of tasks, documents, broken records) of a source."""
    parts = cut(source, slice_bytes)
    positions, documents = (
        read_positions(spark, [source], parts),
        read_documents(spark, [source], parts, None),
    )
    broken = number_lines(positions.where("reason IS NOT NULL"), positions)
    kept = broken.select("source", "file", "offset", "line", "reason", "raw").orderBy("file", "offset")
    return documents.rdd.getNumPartitions(), documents.orderBy("file", "offset").collect(), kept.collect()


def test_rows_give_the_position_of_each_record(spark, tmp_path):
    (tmp_path / "a.csv").write_bytes('t,l\r\n" e\u0301\r\n你",x\r\nb\r\n'.encode())
    source = Source(name="s", path=str(tmp_path), format="csv", fields={"text": "t", "label": "l"})
    _, ((document),), ((broken),) = read_all(spark, source)
    assert (document.source, document.file, document.offset) == ("s", "a.csv", 5)
    assert (document.text, document.label, document.num_chars, document.num_bytes) == (
        "\u00e9\n你",
        "x",
        3,
        6,
    )
    reason = "number of fields: 1, but the header has 2"
    assert tuple(broken) == ("s", "a.csv", 20, 4, reason, bytearray(b"b\r\n"))


def test_tasks_read_parquet_slices_with_structure(spark, tmp_path):
    dialogues = [
        [{"role": "user", "content": f"第{n}问"}, {"role": "assistant", "content": f"{n}"}] for n in range(90)
    ]
    dialogues[7] = [{"role": None, "content": "no role"}]
    columns = {"m": dialogues, "u": [f"http://x/{n}" for n in range(90)]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=10)
    source = Source(name="s", path=str(tmp_path), format="parquet", messages="m", metadata={"url": "u"})
    num_tasks, documents, broken = read_all(spark, source, 1_000)
    assert num_tasks > 3
    assert [row.offset for row in documents] == [n for n in range(90) if n != 7]
    found = documents[7]
    assert found.text == "第8问\n\n8"
    assert found.asDict(recursive=True)["parts"] == [
        {"name": "user", "text": "第8问"},
        {"name": "assistant", "text": "8"},
    ]
    assert found.metadata == {"url": "http://x/8"}
    (row,) = broken
    assert (row.line, row.reason) == (None, "messages: role of turn 1 is null or missing, not a name")
    assert json.loads(bytes(row.raw))["u"] == "http://x/7"


@pytest.mark.parametrize("name", ["jsonl", "csv"])
def test_slices_give_the_rows_of_the_whole_file(spark, tmp_path, monkeypatch, name):
    monkeypatch.setattr(slices, "_FILE_BYTES", 1)
    monkeypatch.setattr("pipelines.corpus.readers.csv_slices._LOOK_BACK_BYTES", 50)
    rows = [f'"第{n}\n行",{n}' if n % 3 else f"a,{n}" for n in range(200)] if name == "csv" else LINES
    head = ["t,id"] if name == "csv" else []
    lines = [*head, *rows[:50], "", "broken 坏", *rows[50:]]
    (tmp_path / "big").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "small").write_text("\n".join([*head, rows[0], "broken"]), encoding="utf-8")
    source = jsonl(tmp_path, format=name)
    num_tasks, *whole = read_all(spark, source)
    assert (num_tasks, len(whole[0])) == (1, 201)
    first = 52 if name == "jsonl" else 53 + sum(n % 3 > 0 for n in range(50))
    assert [(row.file, row.line) for row in whole[1]] == [("big", first), ("small", 2 + len(head))]
    num_tasks, *sliced = read_all(spark, source, 700)
    assert num_tasks > 3
    assert sliced == whole


def test_batches_are_bounded_by_bytes(tmp_path, monkeypatch, spark):
    monkeypatch.setattr(files, "_BATCH_BYTES", 1_000)
    (tmp_path / "a.jsonl").write_text("\n".join(LINES), encoding="utf-8")
    source = jsonl(tmp_path)
    table = cut(source).to_arrow()
    for name in ("offset", "duplicate_of", "first_file", "first_offset"):
        table = table.append_column(name, pa.nulls(table.num_rows))
    build = partial(files._build_documents, sources=[source])
    work = partial(files._work_on_slices, work=build, edited_by=None)
    batches = list(files._run(table.to_batches(), work, files.arrow_schema(DOCUMENT_ROWS)))
    assert sum(batch.num_rows for batch in batches) == 200
    assert max(batch.num_rows for batch in batches) <= 1_000 // len(LINES[0].encode()) + 1


def make_manifest(*listed):
    """The manifest of one source with files of these names and sizes."""
    names, sizes = zip(*listed, strict=True)
    columns = {"source": [0] * len(names), "path": names, "file": names, "size": sizes}
    table = pa.table({**columns, "modified_ns": [0] * len(names)})
    return Manifest(files=table, digest="", num_files={"s": len(names)})


def test_small_files_share_tasks_and_large_ones_do_not():
    manifest = make_manifest(*[(f"{n}", 10) for n in range(300)], ("x", 10**9), ("y", 10**9))
    source = jsonl("x", format="text", fields={})
    tasks = [*slices.cut_files(manifest, [source], 2**25).task]
    assert tasks == [0] * 128 + [1] * 128 + [2] * 44 + [3, 4]


def test_tasks_are_many_enough_for_all_slots():
    manifest = make_manifest(("a", 200 * 10**6))
    source = jsonl("x")
    for num_slots, num_tasks in ((1, 4), (2, 8), (64, 48)):  # 48 of 4 MiB: a task costs a second to start
        size = slices.choose_slice_bytes(manifest, num_slots)
        assert slices.cut_files(manifest, [source], size).num_tasks in (num_tasks, num_tasks + 1)
    assert slices.choose_slice_bytes(make_manifest(("a", 10**14)), 64) == 128 * 2**20


@pytest.mark.parametrize(
    ("num_bytes", "expected"), [(0, 1), (64 * 2**20, 1), (10**9, 15), (10**11, 1491), (10**15, 2000)]
)
def test_partitions_of_a_shuffle_follow_bytes(num_bytes, expected):
    assert slices.choose_partitions(make_manifest(("a", num_bytes))) == expected


def test_small_input_gives_each_slot_one_task():
    for num_bytes, num_tasks in ((12 * 10**6, 2), (30 * 10**6, 2), (100 * 10**6, 6)):
        manifest = make_manifest(("a", num_bytes))
        size = slices.choose_slice_bytes(manifest, 2)
        assert slices.cut_files(manifest, [jsonl("x")], size).num_tasks == num_tasks


def test_manifest_needs_few_bytes_a_file(tmp_path):
    listed = [(f"documents/2026-11-21/part-{n:09}.txt", 5_000) for n in range(100_000)]
    manifest = make_manifest(*listed)
    parts = slices.cut_files(manifest, [jsonl("x", format="text", fields={})], 2**27)
    num_bytes = manifest.files.nbytes + sum(
        column.itemsize * len(column) for column in (parts.file, parts.task, parts.start, parts.stop)
    )
    assert num_bytes / 100_000 < 200


@pytest.mark.parametrize(
    ("name", "file", "starts"),
    [
        ("jsonl", "a.jsonl", [0, 100, 200]),
        ("tsv", "a.tsv", [0, 100, 200]),
        ("parquet", "a.parquet", [0, 100, 200]),
        ("jsonl", "a.JSONL.GZ", [0, 100, 200]),
        ("jsonl", "a.jsonl.zst", [0]),
        ("tsv", "a.tsv.gz", [0]),
        ("csv", "a.csv", [0, 100, 200]),
        ("csv", "a.csv.gz", [0]),
        ("text", "a.txt", [0]),
    ],
)
def test_files_are_cut_if_their_format_allows(name, file, starts):
    fields = {} if name == "text" else {"text": "t"}
    parts = slices.cut_files(make_manifest((file, 250)), [jsonl("x", format=name, fields=fields)], 100)
    assert [*parts.start] == starts
    assert [*parts.stop] == [*starts[1:], -1]


@pytest.mark.parametrize("lost", [1, 9, 200])
def test_truncated_gzip_keeps_its_complete_records(tmp_path, lost):
    # The last byte; the trailer and one more byte; so many bytes that lines are missing.
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress("\n".join(LINES).encode())[:-lost])
    source = jsonl(tmp_path)
    store, _ = locate(source.path)
    part = Slice(f"{tmp_path}/a.jsonl.gz", 0, None)
    *kept, last = files.read_slice(store, source, part)
    whole = [json.loads(line)["t"] for line in LINES]
    assert [record.values["t"] for record in kept] == whole[: len(kept)]
    assert 50 < len(kept) < 200
    assert last.reason == "gzip: the file ends before its end mark"
    assert "\n".join(LINES).encode()[last.offset :].startswith(last.raw)
    assert last.line == len(kept) + 1


class Faulty(pafs.FSSpecHandler):
    """A store that refuses to open files; local files do not, for a root user."""

    def __init__(self, fault: Exception) -> None:
        super().__init__(LocalFileSystem())
        self.fault = fault

    def open_input_file(self, path):
        raise self.fault


@pytest.mark.parametrize(
    ("fault", "remedy"),
    [
        (
            FileNotFoundError(2, "No such file"),
            "No such file; bring it back, or put the files where every machine .* sees them",
        ),
        (
            PermissionError(13, "Permission denied"),
            "Permission denied; let the user of the executors read it",
        ),
        (ConnectionResetError(104, "Connection reset"), "Connection reset; correct the cause and run again"),
    ],
)
def test_unreadable_file_fails_the_task(tmp_path, fault, remedy):
    part = Slice(f"{tmp_path}/a.jsonl", 0, 10)
    store = pafs.PyFileSystem(Faulty(fault))
    with pytest.raises(
        OSError, match=rf"^source 's': {part.path} cannot be read on {platform.node()}: .*{remedy}$"
    ) as raised:
        list(files.read_slice(store, jsonl(tmp_path), part))
    assert type(raised.value) in (FileNotFoundError, PermissionError, OSError)


def test_file_deleted_after_listing_stops_the_stage(spark, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(LINES), encoding="utf-8")
    source = jsonl(tmp_path)
    rows = read_positions(spark, [source], cut(source))
    path.unlink()
    with pytest.raises(PythonException) as raised:
        rows.collect()
    # The last line of the driver's error is all that a person needs.
    last = str(raised.value).strip().splitlines()[-1]
    assert last.startswith(f"FileNotFoundError: source 's': {path} cannot be read on {platform.node()}: ")
    assert "bring it back" in last


def test_broken_row_keeps_at_most_64_kib(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff" * 100_000)
    source = Source(name="s", path=str(tmp_path), format="text")
    part = Slice(f"{tmp_path}/a.txt", 0, None)
    (record,) = files.read_slice(locate(source.path)[0], source, part)
    assert make_position((0, 0, "s", "a"), record, Mapper(source))[-1] == b"\xff" * 65_536

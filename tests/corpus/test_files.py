"""Files to rows on executors. Expected values are written by hand."""

import gzip
import json
import platform

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from pyspark.errors import PythonException
from pyspark.testing import assertDataFrameEqual

from pipelines.corpus.listing import list_files
from pipelines.corpus.readers import files, slices
from pipelines.corpus.readers.files import RECORDS, read_source
from pipelines.corpus.readers.format import Slice, SourceFile
from pipelines.corpus.readers.mapping import Mapper
from pipelines.corpus.source import Source
from pipelines.storage import locate

LINES = [json.dumps({"t": f"第{number}行 line", "id": number}, ensure_ascii=False) for number in range(200)]


def jsonl(path, **knobs):
    return Source(**{"name": "s", "path": str(path), "format": "jsonl", "fields": {"text": "t"}, **knobs})


def read_jsonl(spark, path):
    source = jsonl(path)
    return read_source(spark, source, list_files(source))


def test_row_gives_the_position_of_its_record(spark, tmp_path):
    (tmp_path / "a.csv").write_bytes('t,l\r\n" e\u0301\r\n你",x\r\nb\r\n'.encode())
    source = Source(name="s", path=str(tmp_path), format="csv", fields={"text": "t", "label": "l"})
    expected = spark.createDataFrame(
        [
            ("s", "a.csv", 5, 2, None, "\u00e9\n你", "x", None, None, None, None, None),
            (
                "s",
                "a.csv",
                20,
                4,
                None,
                None,
                None,
                None,
                None,
                None,
                "number of fields: 1, but the header has 2",
                bytearray(b"b\r\n"),
            ),
        ],
        RECORDS,
    )
    assertDataFrameEqual(read_source(spark, source, list_files(source)), expected)


def test_tasks_read_parquet_slices_with_structure(spark, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.corpus.readers.format.SLICE_BYTES", 1_000)
    monkeypatch.setattr(slices, "_TASK_BYTES", 1)
    dialogues = [
        [{"role": "user", "content": f"第{n}问"}, {"role": "assistant", "content": f"{n}"}] for n in range(90)
    ]
    dialogues[7] = [{"role": None, "content": "no role"}]
    columns = {"m": dialogues, "u": [f"http://x/{n}" for n in range(90)]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=10)
    source = Source(name="s", path=str(tmp_path), format="parquet", messages="m", metadata={"url": "u"})
    rows = read_source(spark, source, list_files(source))
    assert rows.rdd.getNumPartitions() > 3
    found = sorted(rows.collect(), key=lambda row: row.offset)
    assert [row.offset for row in found] == list(range(90))
    assert found[8].text == "第8问\n\n8"
    assert found[8].asDict(recursive=True)["parts"] == [
        {"name": "user", "text": "第8问"},
        {"name": "assistant", "text": "8"},
    ]
    assert found[8].metadata == {"url": "http://x/8"}
    assert [(row.line, row.reason) for row in found if row.reason] == [
        (None, "messages: role of turn 1 is null or missing, not a name")
    ]
    assert json.loads(bytes(found[7].raw))["u"] == "http://x/7"


def test_slices_give_the_rows_of_the_whole_file(spark, tmp_path, monkeypatch):
    lines = [*LINES[:50], "", "broken 坏", *LINES[50:]]
    (tmp_path / "big.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "small.jsonl").write_text(LINES[0] + "\nbroken", encoding="utf-8")
    whole = read_jsonl(spark, tmp_path).collect()
    assert len(whole) == 203
    assert sorted((row.file, row.line) for row in whole if row.reason) == [
        ("big.jsonl", 52),
        ("small.jsonl", 2),
    ]
    monkeypatch.setattr("pipelines.corpus.readers.format.SLICE_BYTES", 700)
    monkeypatch.setattr(slices, "_TASK_BYTES", 2**20)
    sliced = read_jsonl(spark, tmp_path)
    assert sliced.rdd.getNumPartitions() > 3
    assert sorted(sliced.collect()) == sorted(whole)


def test_batches_are_bounded_by_bytes(spark, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_BATCH_BYTES", 1_000)
    (tmp_path / "a.jsonl").write_text("\n".join(LINES), encoding="utf-8")
    source = jsonl(tmp_path)
    parts = [part._asdict() for part in slices.cut_files(list_files(source), source)]
    batch = files.pa.RecordBatch.from_pylist(parts)
    batches = list(files._read_slices([batch], source, files.arrow_schema(RECORDS)))
    assert sum(batch.num_rows for batch in batches) == 200
    assert max(batch.num_rows for batch in batches) <= 1_000 // len(LINES[0].encode()) + 1


def test_small_files_share_tasks_and_large_ones_do_not(tmp_path):
    sizes = [10] * 300 + [10**9] * 2
    listed = [
        SourceFile(path=f"{n}", relative=f"{n}", size=size, modified_ns=0) for n, size in enumerate(sizes)
    ]
    tasks = [part.task for part in slices.cut_files(listed, jsonl(tmp_path, format="csv"))]
    assert tasks == [0] * 127 + [1] * 127 + [2] * 46 + [3, 4]


@pytest.mark.parametrize(
    ("name", "file", "starts"),
    [
        ("jsonl", "a.jsonl", [0, 100, 200]),
        ("tsv", "a.tsv", [0, 100, 200]),
        ("parquet", "a.parquet", [0, 100, 200]),
        ("jsonl", "a.JSONL.GZ", [0]),
        ("csv", "a.csv", [0]),
        ("text", "a.txt", [0]),
    ],
)
def test_files_are_cut_if_their_format_allows(name, file, starts, monkeypatch):
    monkeypatch.setattr("pipelines.corpus.readers.format.SLICE_BYTES", 100)
    fields = {} if name == "text" else {"text": "t"}
    listed = [SourceFile(path=file, relative=file, size=250, modified_ns=0)]
    parts = slices.cut_files(listed, jsonl("x", format=name, fields=fields))
    assert [part.start for part in parts] == starts
    assert [part.stop for part in parts] == [*starts[1:], None]


@pytest.mark.parametrize("cut", [1, 9, 200])
def test_truncated_gzip_keeps_its_complete_records(tmp_path, cut):
    # The last byte; the trailer and one more byte; so many bytes that lines are missing.
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress("\n".join(LINES).encode())[:-cut])
    source = jsonl(tmp_path)
    store, _ = locate(source.path)
    (part,) = slices.cut_files(list_files(source), source)
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
@pytest.mark.parametrize(
    "read", [lambda *task: list(files.read_slice(*task)), files.count_line_feeds], ids=["read", "count"]
)
def test_unreadable_file_fails_the_task(tmp_path, fault, remedy, read):
    part = Slice(0, f"{tmp_path}/a.jsonl", "a.jsonl", 0, 10, 1)
    store = pafs.PyFileSystem(Faulty(fault))
    with pytest.raises(
        OSError, match=rf"^source 's': {part.path} cannot be read on {platform.node()}: .*{remedy}$"
    ) as raised:
        read(store, jsonl(tmp_path), part)
    assert type(raised.value) in (FileNotFoundError, PermissionError, OSError)


def test_file_deleted_after_listing_stops_the_stage(spark, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(LINES), encoding="utf-8")
    rows = read_jsonl(spark, tmp_path)
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
    (part,) = slices.cut_files(list_files(source), source)
    (record,) = files.read_slice(locate(source.path)[0], source, part)
    assert files.make_row(record, Mapper(source), "s", "a")[-1] == b"\xff" * 65_536

"""gzip files with many members: slices give the records of a file that is read as a whole. Without Spark."""

import gzip
import io
import json
import random
from array import array

import pyarrow as pa
import pytest

from pipelines.corpus.manifest import Manifest
from pipelines.corpus.readers import gzip as gzip_reader
from pipelines.corpus.readers.format import Slice
from pipelines.corpus.readers.gzip import find_member
from pipelines.corpus.readers.settle import Found, place_slices
from pipelines.corpus.readers.slices import cut_files
from tests.corpus.reading import make_source

JSONL = make_source(format="jsonl", fields={"text": "t"}, max_record_bytes=4_000)


def read_part(data, part, source=JSONL):
    """(records, extent) of a slice."""
    records, found = source.reader.read(io.BytesIO(data), part, source.request), []
    while True:
        try:
            found.append(next(records))
        except StopIteration as end:
            return found, end.value


def read_whole(data, source=JSONL, path="a.jsonl.gz"):
    return read_part(data, Slice(path, 0, None), source)[0]


def read_in_slices(data, slice_bytes, source=JSONL, path="a.jsonl.gz"):
    """(records of the second reading, number of slices that have some, whether the file was read whole)."""
    columns = {"source": [0], "path": [path], "file": [path], "size": [len(data)], "modified_ns": [0]}
    manifest = Manifest(files=pa.table(columns), digest="", num_files={"s": 1})
    slices = cut_files(manifest, [source], slice_bytes)
    found = []
    for number, (start, stop) in enumerate(zip(slices.start, slices.stop, strict=True)):
        extent = read_part(data, Slice(path, start, None if stop < 0 else stop), source)[1]
        found.append(Found(number, extent.num_bytes, extent.first_member, extent.next_member))
    settled, whole = place_slices(slices, found) if slices.has_cut_gzip else (slices, set())
    records, num_used, num_lines = [], 0, 0
    rows = settled.to_arrow().to_pylist()
    for row in rows:
        part = Slice(path, row["start"], row["stop"], row["base"])
        read, extent = read_part(data, part, source)
        records += [
            record if record.line is None else record._replace(line=record.line + num_lines)
            for record in read
        ]
        num_lines += extent.num_lines
        num_used += bool(read)
    assert len(rows) == 1 or not whole
    return records, num_used, bool(whole)


def make_lines(generator, num_lines):
    words = [json.dumps({"t": f"第{n}行 " + "x" * generator.randrange(60)}) for n in range(num_lines)]
    words[::17] = ["broken"] * len(words[::17])
    return "".join(f"{line}\n" for line in words).encode()


def compress_in_members(content, generator, member_bytes, level=6):
    """Members that end anywhere, also within a line."""
    members, position = [], 0
    while position < len(content):
        size = generator.randrange(0, member_bytes)
        members.append(gzip.compress(content[position : position + size], level, mtime=0))
        position += size
    return members


@pytest.mark.parametrize("slice_bytes", [100, 700, 3_000])
def test_slices_of_members_give_the_whole_file(slice_bytes):
    generator = random.Random(slice_bytes)
    for member_bytes in (3, 30, 400, 5_000):
        content = make_lines(generator, 70)
        data = b"".join(compress_in_members(content, generator, member_bytes)) + b"\0" * 600
        records, num_used, is_whole = read_in_slices(data, slice_bytes)
        plain = read_part(content, Slice("a.jsonl", 0, None))[0]
        assert records == read_whole(data) == plain
        assert len(records) == 70
        assert not is_whole
        assert num_used > 1 or member_bytes > 400 or slice_bytes > 700


def test_damaged_members_lose_only_their_own_lines():
    generator = random.Random(3)
    content = make_lines(generator, 300)
    num_damaged = num_whole = 0
    for case in range(150):
        data = bytearray(b"".join(compress_in_members(content, generator, 600)))
        for _ in range(generator.randrange(1, 4)):
            at = generator.randrange(len(data))
            if case % 3 == 0:
                del data[at : at + generator.randrange(300)]
            elif case % 3 == 1:
                data[at] ^= 1 << generator.randrange(8)
            else:
                data[at : at + 40] = generator.randbytes(generator.randrange(80))
        records, _, is_whole = read_in_slices(bytes(data), 500)
        assert records == read_whole(bytes(data))
        offsets = [record.offset for record in records]
        assert offsets == sorted(set(offsets))
        damaged = [record for record in records if record.reason and record.reason.startswith("gzip")]
        # One member has about 10 lines; a damage costs its member, and at most the one behind it.
        assert len(records) > 300 - 45 * (1 + len(damaged))
        num_damaged += bool(damaged)
        num_whole += is_whole
    assert num_damaged > 100
    assert 0 < num_whole < 100


def test_lines_behind_a_damage_are_read_again():
    lines = [b'{"t": "%d"}\n' % number for number in range(6)]
    members = [bytearray(gzip.compress(line, mtime=0)) for line in lines]
    members[2][10:14] = b"\xff" * 4  # the reserved kind of block: an error before the first byte of output
    records = read_whole(b"".join(members))
    assert [record.values and record.values["t"] for record in records] == ["0", "1", None, "4", "5"]
    assert records[2].reason.startswith("gzip: Error -3")
    assert (records[2].offset, records[2].raw) == (2 * len(lines[0]), b"")


def test_members_inside_members_are_not_mistaken_for_slices():
    """A gzip file that was compressed again without effect holds the inner members as they are."""
    generator = random.Random(5)
    inner = b"".join(compress_in_members(make_lines(generator, 100), generator, 300))
    lines = b"".join(b'{"t": "%d"}\n' % number for number in range(20))
    data = gzip.compress(lines + inner + b"\n" + lines, 0, mtime=0) + gzip.compress(lines, mtime=0)
    assert find_member(io.BytesIO(data), 1) < len(data) // 2
    # The second file ends with the member that holds the others: no slice may go on behind its end.
    for file, num_good in ((data, 60), (data[: -len(gzip.compress(lines, mtime=0))], 40)):
        records, _, is_whole = read_in_slices(file, 500)
        assert is_whole
        assert records == read_whole(file)
        assert sum(record.values is not None for record in records) == num_good


@pytest.mark.parametrize("search_bytes", [11, 64, 2**20])
def test_member_is_found_at_each_place_of_the_buffer(search_bytes, monkeypatch):
    monkeypatch.setattr(gzip_reader, "_SEARCH_BYTES", search_bytes)
    member = gzip.compress(b"hello", mtime=0)
    for before in range(70):
        data = b"\x1f\x8b\x08" * (before // 3) + b"\x1f" * (before % 3) + member
        assert find_member(io.BytesIO(data), 0) == before
        assert find_member(io.BytesIO(data), before, before + 1) == before
        assert find_member(io.BytesIO(data), 0, before) is None
        assert find_member(io.BytesIO(data), before + 1) is None


def test_slices_without_members_are_left_out():
    data = gzip.compress(make_lines(random.Random(9), 400), mtime=0)
    records, num_used, is_whole = read_in_slices(data, 200)
    assert (len(records), num_used, is_whole) == (400, 1, False)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([(10, 0, 7), (20, 7, None)], [(0, 7, 0), (7, -1, 10)]),
        ([(10, 0, 9), (0, None, None), (5, 9, None)], [(0, 9, 0), (9, -1, 10)]),
        ([(10, 0, 7), (20, 8, None)], [(0, -1, 0)]),
        ([(10, 0, 7), (0, None, None)], [(0, -1, 0)]),
        ([(10, 0, None), (20, 8, None)], [(0, -1, 0)]),
    ],
)
def test_slices_that_do_not_meet_become_the_whole_file(found, expected):
    columns = {"source": [0], "path": ["a.gz"], "file": ["a.gz"], "size": [40], "modified_ns": [0]}
    manifest = Manifest(files=pa.table(columns), digest="", num_files={"s": 1})
    slices = cut_files(manifest, [JSONL], 40 // len(found) + 1)
    settled, _ = place_slices(slices, [Found(number, *each) for number, each in enumerate(found)])
    rows = settled.to_arrow().to_pylist()
    assert [
        (row["start"], -1 if row["stop"] is None else row["stop"], row["base"]) for row in rows
    ] == expected
    assert slices.base == array("q", [0] * len(found))

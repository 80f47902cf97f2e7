"""Files damaged at random: no error, bounded memory, counts that reconcile, and slices equal to whole files.

The kinds of damage: cut, bits flipped, parts lost, other bytes in between, another encoding, an archive in an
archive, the wrong format, a bomb. `test_damage_soak.py` is the long version.
"""

import bz2
import gzip
import io
import lzma
import random
import resource
import zipfile
from collections import Counter

import pytest
import zstandard

from pipelines.corpus.build import open_corpus
from pipelines.corpus.manifest import list_sources
from pipelines.corpus.quarantine import DAMAGED_FILE
from pipelines.corpus.readers.format import Slice
from pipelines.corpus.readers.mapping import Mapper
from pipelines.corpus.readers.rows import make_document, make_position
from pipelines.corpus.rules import Rules
from pipelines.corpus.source import Source
from tests.corpus.documents import make_file
from tests.corpus.test_members import read_in_slices

FORMATS = ["csv", "html", "jsonl", "lines", "markdown", "parquet", "pdf", "text", "tsv", "warc"]
CUT_BY_MEMBERS = ("jsonl", "lines", "warc")
COMPRESSIONS = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data),
}
MAX_RECORD_BYTES = 200_000


def zip_file(data):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("inner", data)
    return packed.getvalue()


def recode(data, encoding):
    return data.decode("utf-8", "replace").encode(encoding, "replace")


DAMAGES = {
    "none": lambda data, generator: data,
    "cut": lambda data, generator: data[: generator.randrange(len(data) + 1)],
    "flip": lambda data, generator: flip(data, generator, generator.randrange(1, 20)),
    "lose": lambda data, generator: lose(data, generator),
    "insert": lambda data, generator: insert(data, generator, generator.randbytes(generator.randrange(300))),
    "zeros": lambda data, generator: insert(data, generator, bytes(generator.randrange(9_000))),
    "nested": lambda data, generator: generator.choice([gzip.compress, bz2.compress, zip_file])(data),
    "random": lambda data, generator: generator.randbytes(generator.randrange(2_000)),
    "utf-16": lambda data, generator: recode(data, "utf-16"),
    "gb18030": lambda data, generator: recode(data, "gb18030"),
}


def flip(data, generator, times):
    changed = bytearray(data)
    for _ in range(times if data else 0):
        changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
    return bytes(changed)


def lose(data, generator):
    at = generator.randrange(len(data) + 1)
    return data[:at] + data[at + generator.randrange(500) :]


def insert(data, generator, new):
    at = generator.randrange(len(data) + 1)
    return data[:at] + new + data[at:]


def make_damaged_file(generator):
    """(format, options of its source, name, content, kind of damage). Damage before or after compression."""
    name = generator.choice(FORMATS)
    texts = [f"第{n}行 line {n} " + "文 word " * generator.randrange(12) for n in range(40)]
    options, file, data = make_file(name, texts)
    damage = generator.choice([*DAMAGES])
    suffix = generator.choice([*COMPRESSIONS]) if name not in ("warc", "parquet") else ""
    inner, outer = ("none", damage) if generator.random() < 0.5 else (damage, "none")
    data = COMPRESSIONS[suffix](DAMAGES[inner](data, generator))
    return name, options, f"{file}{suffix}", DAMAGES[outer](data, generator), damage


def make_source(name, options, path="x"):
    return Source(name="s", path=str(path), format=name, max_record_bytes=MAX_RECORD_BYTES, **options)


def read_rows(data, source, file):
    """(offsets of documents, offsets and reasons of broken records) of a file, by the two readings."""
    mapper, part = Mapper(source), Slice(file, 0, None)
    positions = [
        make_position((0, 0, "s", file), record, mapper)
        for record in source.reader.read(io.BytesIO(data), part, source.request)
    ]
    documents = [
        make_document("s", file, record, mapper, None)
        for record in source.reader.read(io.BytesIO(data), part, source.request)
    ]
    good = [row[4] for row in positions if row[-2] is None]
    assert [row[2] for row in documents if row is not None] == good
    return good, [(row[4], row[-2]) for row in positions if row[-2] is not None]


@pytest.mark.parametrize("seed", range(8))
def test_damaged_files_never_raise_and_reconcile(seed):
    generator = random.Random(seed)
    num_good = num_broken = 0
    for _ in range(60):
        name, options, file, data, damage = make_damaged_file(generator)
        source = make_source(name, options)
        good, broken = read_rows(data, source, file)
        offsets = [*good, *(offset for offset, _ in broken)]
        assert len(offsets) == len(set(offsets)), (name, file, damage)
        assert good == sorted(good)
        if damage == "none":
            assert not broken, (name, file, broken)
            assert len(good) == (1 if name in ("html", "markdown", "pdf", "text") else 40)
        if name in CUT_BY_MEMBERS and file.endswith(".gz"):
            records, _, _ = read_in_slices(data, 400, source, file)
            mapped = [make_position((0, 0, "s", file), record, Mapper(source)) for record in records]
            assert [row[4] for row in mapped if row[-2] is None] == good
            assert [(row[4], row[-2]) for row in mapped if row[-2] is not None] == broken
        num_good, num_broken = num_good + len(good), num_broken + len(broken)
    assert num_good > 300
    assert num_broken > 30


def write_bomb(path, num_bytes):
    """Zero bytes between two records, as .gz."""
    zeros = bytes(2**24)
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(b'{"t": "before"}\n')
        for _ in range(num_bytes // len(zeros)):
            file.write(zeros)
        file.write(b'\n{"t": "after"}\n')


@pytest.mark.parametrize(
    "num_bytes", [2**28, pytest.param(10 * 2**30, marks=[pytest.mark.soak, pytest.mark.slow])]
)
def test_bomb_needs_no_memory(tmp_path, num_bytes):
    path = tmp_path / "a.jsonl.gz"
    write_bomb(path, num_bytes)
    assert path.stat().st_size < num_bytes / 900
    source = make_source("jsonl", {"fields": {"text": "t"}})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with path.open("rb") as file:
        found = list(source.reader.read(file, Slice(str(path), 0, None), source.request))
    assert [record.values and record.values["t"] for record in found] == ["before", None, "after"]
    assert found[1].reason.startswith("too long")
    assert found[1].num_bytes == num_bytes + 1
    # KiB. The bomb expands to 256 MiB or 10 GiB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def write_damaged_files(folder, num_files, generator):
    """Damaged files by format; returns the sources."""
    sources = {}
    for number in range(num_files):
        name, options, file, data, _ = make_damaged_file(generator)
        path = folder / name / f"{number:04d}-{file}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        source = make_source(name, options, path.parent)
        sources[name] = Source(
            **{field: getattr(source, field) for field in ("path", "format", "fields", "max_record_bytes")},
            name=name,
        )
    return [sources[name] for name in sorted(sources)]


def test_documents_are_what_each_file_gives_alone(spark, tmp_path):
    num_files = 40
    sources = write_damaged_files(tmp_path / "raw", num_files, random.Random(num_files))
    expected_good = expected_broken = 0
    damaged = Counter()
    for source in sources:
        for path in sorted((tmp_path / "raw" / source.name).iterdir()):
            good, broken = read_rows(path.read_bytes(), source, path.name)
            expected_good, expected_broken = expected_good + len(good), expected_broken + len(broken)
            damaged[source.name] += any(reason.split(":")[0] in DAMAGED_FILE for _, reason in broken)
    with open_corpus(spark, sources, list_sources(sources), Rules()) as corpus:
        with corpus.hold_documents(str(tmp_path / "documents")) as held:
            assert held.num_rows == corpus.facts["documents"] == expected_good
        assert corpus.quarantine().count() == corpus.facts["quarantined"] == expected_broken
        assert corpus.facts["records"] == expected_good + expected_broken
        assert {name: each["damaged"] for name, each in corpus.facts["sources"].items()} == damaged
    assert expected_broken > num_files / 4

"""Damaged files and bombs through stage 1 as users run it: it ends, memory is bounded, and counts reconcile.

The short version is part of the slow tests. The long one has 1,000 files and a bomb of 10 GB in 10 MB:
`pytest -m soak tests/corpus/test_damage_soak.py`; SOAK_SEED chooses other files.
"""

import os
import threading
from collections import Counter, defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from jobs import corpus
from jobs.shell.settings import load
from pipelines.corpus import build
from pipelines.corpus.clean import normalise
from pipelines.pin import pin, version_of
from pipelines.tables import DOCUMENTS, QUARANTINE
from tests.corpus.damaged import ONE_DOCUMENT, write_bombs, write_damaged_files
from tests.corpus.increments import SPARK
from tests.corpus.test_damage import FORMATS, MAX_RECORD_BYTES, make_source, read_rows

MAPPED = ("csv", "jsonl", "parquet", "tsv")
MAX_WORKER_MB, MAX_GUARD_MB = 600, 700


class Found(NamedTuple):
    """What the tables have of one file."""

    texts: dict[int, str]
    """By offset."""
    reasons: dict[int, str]


def make_config(folder: Path, lake: str):
    """The stage on folder/raw/FORMAT of each format, with limits that no damage exceeds."""
    sources = []
    for name in FORMATS:
        fields = ", fields: {text: t}" if name in MAPPED else ""
        limit = f"max_record_bytes: {MAX_RECORD_BYTES}"
        sources.append(f"{{name: {name}, path: {folder}/raw/{name}, format: {name}, {limit}{fields}}}")
    given = [f"root={folder}/{lake}", f"corpus.sources=[{', '.join(sources)}]"]
    given += ["corpus.max_quarantined_fraction=1", "corpus.max_damaged_fraction=1", SPARK]
    return load(overrides=given).section("corpus", corpus.Config)


@contextmanager
def watch_memory():
    """The most memory in MB that each Python process below this one takes meanwhile, by what it runs.

    A worker that was there before has loaded what other tests needed: that part is not counted.
    """
    peaks, stopped = Counter(), threading.Event()
    before = {process.pid: forget_peak(process) for process in list_python_processes()}

    def watch():
        while not stopped.wait(0.2):
            for process in list_python_processes():
                grown = process.peak_mb - before.get(process.pid, 0)
                peaks[process.kind] = max(peaks[process.kind], grown)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        stopped.set()
        thread.join()


class PythonProcess(NamedTuple):
    """One of Spark's Python workers below this process."""

    pid: int
    kind: str
    """guard or worker."""
    peak_mb: int
    """Of its resident memory."""


def list_python_processes() -> list[PythonProcess]:
    parents, found = {}, []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            status = read_status(place)
            command = (place / "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        pid = int(place.name)
        parents[pid] = int(status["PPid"])
        is_java = b"java" in command.split(b"\0")[0]
        if "VmHWM" in status and not is_java and (b"guard_process" in command or b"pyspark" in command):
            kind = "guard" if b"guard_process" in command else "worker"
            found.append(PythonProcess(pid, kind, read_mb(status["VmHWM"])))
    return [process for process in found if is_below(process.pid, parents)]


def forget_peak(process: PythonProcess) -> int:
    """MB that it has now; its peak is counted from here."""
    place = Path("/proc", str(process.pid))
    try:
        (place / "clear_refs").write_text("5")
        return read_mb(read_status(place)["VmRSS"])
    except (OSError, KeyError):  # it has ended meanwhile
        return 0


def read_status(place: Path) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in (place / "status").read_text().splitlines())


def read_mb(amount: str) -> int:
    return int(amount.split()[0]) // 1024


def is_below(pid, parents):
    while pid and pid != os.getpid():
        pid = parents.get(pid, 0)
    return pid == os.getpid()


def read_tables(spark, config) -> dict[tuple[str, str], Found]:
    found: dict[tuple[str, str], Found] = defaultdict(lambda: Found({}, {}))
    documents, broken = DOCUMENTS.read(spark, config.documents), QUARANTINE.read(spark, config.quarantine)
    for row in documents.select("source", "file", "offset", "text").collect():
        found[row.source, row.file].texts[row.offset] = row.text
    for row in broken.select("source", "file", "offset", "reason").collect():
        found[row.source, row.file].reasons[row.offset] = row.reason
    return found


def check_file(made, found: Found, data: bytes) -> None:
    """The tables have of a file what a reader of the whole file gives, and what the damage leaves."""
    at = (made.format, made.file, made.damage)
    options = {"fields": {"text": "t"}} if made.format in MAPPED else {}
    good, broken = read_rows(data, make_source(made.format, options), made.file)
    assert list(found.texts) == good or sorted(found.texts) == good, at
    assert sorted(found.reasons.items()) == sorted(broken), at
    assert found.texts or found.reasons or not data or made.format in ("csv", "tsv"), at
    expected = [normalise(text) for text in made.texts]
    texts = [found.texts[offset] for offset in sorted(found.texts)]
    if made.damage == "none":
        assert not found.reasons, at
        assert len(texts) == (1 if made.format in ONE_DOCUMENT else len(expected)), at
        if made.format not in ("html", "pdf"):
            assert all(text in each for text, each in zip(expected, texts * len(expected), strict=False)), at
    elif made.num_lost is not None:
        left = Counter(expected) & Counter(texts)
        assert left.total() >= len(expected) - made.num_lost, at
        assert len(texts) + len(found.reasons) >= len(expected) - made.num_lost, at


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_files", "bomb_bytes"), [(50, 2**26), pytest.param(1_000, 10 * 2**30, marks=pytest.mark.soak)]
)
def test_stage_survives_damaged_files_and_bombs(spark, tmp_path, monkeypatch, num_files, bomb_bytes):
    is_long = num_files == 1_000
    seed = int(os.environ.get("SOAK_SEED", "1"))
    made = write_damaged_files(tmp_path / "raw", num_files, seed)
    bombs = write_bombs(tmp_path / "raw", bomb_bytes, is_long=is_long)
    config = make_config(tmp_path, "lake")
    with watch_memory() as peaks:
        assert corpus.main(config).ran
    found = read_tables(spark, config)
    for each in made:
        path = tmp_path / "raw" / each.format / each.file
        check_file(each, found[each.format, each.file], path.read_bytes())
    for place, expected in bombs.items():
        rows = sorted([*dict.fromkeys(found[place].texts, "").items(), *found[place].reasons.items()])
        assert len(rows) == len(expected), (place, rows)
        for (_, reason), begin in zip(rows, expected, strict=True):
            assert reason.startswith(begin), (place, rows)
            assert bool(reason) == bool(begin), (place, rows)
    facts = pin(config.documents).facts
    assert facts["documents"] == sum(len(each.texts) for each in found.values())
    assert facts["quarantined"] == sum(len(each.reasons) for each in found.values()) > num_files / 4
    assert facts["records"] == facts["documents"] + facts["quarantined"]
    assert 0 < peaks["worker"] < MAX_WORKER_MB, peaks
    assert 0 < peaks["guard"] < MAX_GUARD_MB, peaks
    print({"seed": seed, **peaks, **{name: facts[name] for name in ("records", "documents", "quarantined")}})
    assert not corpus.main(config).ran
    check_other_partitions(spark, config, make_config(tmp_path, "other"), monkeypatch, is_long=is_long)


def check_other_partitions(spark, config, other, monkeypatch, *, is_long):
    """The same tables if the files are cut into many more slices."""
    monkeypatch.setattr(build, "choose_slice_bytes", lambda *_: 2**16 if is_long else 2**21)
    assert corpus.main(other).ran
    for name in ("documents", "quarantine"):
        assert pin(getattr(other, name)).digest == pin(getattr(config, name)).digest, name
        assert version_of(getattr(other, name)) == version_of(getattr(config, name)), name

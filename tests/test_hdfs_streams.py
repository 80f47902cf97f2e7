"""Open files on a store that fails at chosen moments, as HDFS does without its data nodes."""

from functools import partial

import pyarrow as pa
import pytest

from pipelines import hdfs_streams, repeating
from pipelines.hdfs_streams import PatientReader, PatientWriter
from pipelines.repeating import repeat


class Store:
    """One file, and the number of calls that fail before the next one succeeds."""

    def __init__(self, content=b""):
        self.content, self.failing, self.created = content, 0, 0

    def answer(self):
        if self.failing:
            self.failing -= 1
            raise RuntimeError("DataTransferError: All DataNodes failed")

    def open(self):
        return OpenFile(self)

    def create(self):
        self.created += 1
        return OpenFile(self)


class OpenFile:
    """As hdfs-native's: a read that fails leaves the position anywhere, a file appears when it is closed."""

    def __init__(self, store):
        self.store, self.at, self.written = store, 0, b""

    def __len__(self):
        return len(self.store.content)

    def tell(self):
        return self.at

    def seek(self, position):
        self.at = position

    def read(self, size=-1):
        start, self.at = self.at, 77
        self.store.answer()
        content = self.store.content[start:]
        content = content if size < 0 else content[:size]
        self.at = start + len(content)
        return content

    def write(self, content):
        self.store.answer()
        self.written += bytes(content)

    def close(self):
        self.store.answer()
        self.store.content = self.written


@pytest.fixture
def ask(monkeypatch):
    monkeypatch.setattr(repeating, "PAUSE_SECONDS", 0.001)
    return partial(repeat, patience_seconds=2)


def test_a_read_goes_on_where_it_failed(ask):
    store = Store(bytes(range(100)))
    with pa.PythonFile(PatientReader("/f", store.open, ask), mode="r") as source:
        assert source.size() == 100
        for start in range(0, 100, 30):
            store.failing = 2
            assert source.read(30) == bytes(range(start, min(start + 30, 100)))
        assert (source.tell(), source.read(1)) == (100, b"")
        source.seek(50)
        store.failing = 1
        assert source.read() == bytes(range(50, 100))


def test_a_file_with_another_length_is_refused(ask):
    store = Store(b"12345")
    source = PatientReader("/f", store.open, ask)
    store.content, store.failing = b"123456", 1
    with pytest.raises(OSError, match="/f changed while it was read: it had 5 bytes, and has 6; run the sta"):
        source.read(1)


def test_a_small_file_is_begun_again_with_all_it_had(ask):
    store = Store()
    with pa.PythonFile(PatientWriter("/f", store.create, ask), mode="w") as sink:
        for number in range(10):
            store.failing = number % 3
            sink.write(bytes([number]) * 10)
        store.failing = 1  # while it is closed
    assert store.content == bytes(number for number in range(10) for _ in range(10))
    # Begun again once for 1, 4, 7 and for the end, and twice for 2, 5 and 8.
    assert store.created == 1 + 3 + 1 + 6


def test_a_large_file_fails_at_once_and_for_good(ask, monkeypatch):
    monkeypatch.setattr(hdfs_streams, "KEPT_BYTES", 20)
    store = Store()
    sink = PatientWriter("/f", store.create, ask)
    sink.write(b"1" * 21)
    store.failing = 1
    for step in (partial(sink.write, b"2"), partial(sink.write, b"3"), sink.close):
        with pytest.raises(OSError, match="/f: HDFS lost the file at 22 bytes: DataTransferError"):
            step()
    assert (store.content, store.created) == (b"", 1)


def test_an_error_of_another_kind_stays_as_it_is(ask):
    store = Store()
    sink = PatientWriter("/f", store.create, ask)
    store.answer = lambda: (_ for _ in ()).throw(PermissionError("user ana may not write here"))
    with pytest.raises(PermissionError, match="user ana may not write here"):
        sink.write(b"1")
    with pytest.raises(PermissionError, match="user ana may not write here"):
        sink.close()
    assert store.created == 1

"""Questions to HDFS are asked again while its servers restart, and other errors are raised at once."""

import time

import pytest

from pipelines import repeating
from pipelines.repeating import is_restarting, repeat, repeat_on_hdfs
from pipelines.stores import Stores, configure

# What hdfs-native 0.14 and deltalake 1.6 raised while servers were killed, shortened.
AWAY = [
    OSError("Kernel error -> Generic HdfsObjectStore error\n ↳ data transfer error\n ↳ All DataNodes failed"),
    OSError("Generic HdfsObjectStore error\n ↳ IO error occurred\n ↳ Connection refused (os error 111)"),
    OSError("java.io.IOException File /t/x could only be written to 0 of the 1 minReplication nodes."),
    RuntimeError('DataTransferError("All nodes failed for write")'),
    RuntimeError('DataTransferError("Block writer is closed")'),
]
OTHERS = [
    FileNotFoundError("/t/x"),
    PermissionError("AccessControlException: Permission denied: user=ana, access=WRITE"),
    ValueError("Parquet magic bytes not found in footer"),
    OSError(28, "No space left on device"),
]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(repeating, "PAUSE_SECONDS", 0.01)


def answering_after(failures):
    """A question that raises these errors, one a call, and then answers; and its calls."""
    left, calls = list(failures), []

    def ask():
        calls.append(1)
        if left:
            raise left.pop(0)
        return "answer"

    return ask, calls


def test_questions_are_repeated_until_servers_answer(quick):
    ask, calls = answering_after(AWAY)
    assert repeat(ask, 10) == "answer"
    assert len(calls) == len(AWAY) + 1


@pytest.mark.parametrize("error", OTHERS, ids=lambda error: type(error).__name__)
def test_other_errors_are_raised_at_once(error):
    ask, calls = answering_after([error])
    with pytest.raises(type(error)) as raised:
        repeat(ask, 10)
    assert raised.value is error
    assert len(calls) == 1


def test_patience_ends_with_the_error_of_the_store(quick):
    started = time.monotonic()
    with pytest.raises(OSError, match="Connection refused"):
        repeat(lambda: (_ for _ in ()).throw(OSError("Connection refused")), 0.2)
    assert 0.2 <= time.monotonic() - started < 2


def test_a_first_look_asks_once():
    ask, calls = answering_after([OSError("Connection refused")])
    with pytest.raises(OSError, match="refused"):
        repeat(ask, 0)
    assert len(calls) == 1


def test_only_hdfs_is_asked_again(quick):
    configure(Stores(patience_seconds=5))
    try:
        ask, calls = answering_after([OSError("Connection refused")])
        assert repeat_on_hdfs("hdfs://head:8020/t", ask) == "answer"
        ask, calls = answering_after([OSError("Connection refused")])
        with pytest.raises(OSError, match="refused"):
            repeat_on_hdfs("s3a://lake/t", ask)  # its clients have waited already
        assert len(calls) == 1
    finally:
        configure(Stores())


def test_an_interrupt_is_no_restart():
    assert not is_restarting(KeyboardInterrupt("Connection refused"))

"""Text of pages and PDF files, extracted in a process of its own: a bad one costs a record, not the task.

The libraries are C and C++, and read what anybody wrote. 30 kB of HTML can ask for gigabytes, a PDF of a few
kB for hours, and a damaged one can crash its process. So each Python worker starts one guard process at the
first page or PDF (0.1 to 0.2 s) and keeps it. Bytes go in and text comes out, with their lengths; nothing is
pickled. Costs per record: 0.1 ms and a copy.

Limits of one record: MAX_SECONDS of CPU time and MAX_MEMORY_BYTES. A record above them, or that crashes the
process, raises MalformedError, and the next one gets a new process. The verdict must not depend on the
records before, because files are read twice: a process that has read others gets no last word on memory and
crashes, the record is tried again in a new one. CPU time, unlike time of the clock, does not depend on what
else the machine does. If the machine itself ends the process (out of memory) or stops it, that is no fault of
the record: RuntimeError fails the task, and Spark tries it again.
"""

import atexit
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pipelines.corpus.readers.format import MalformedError

MAX_SECONDS = 30.0
"""CPU seconds of a record. Of 16 MiB, HTML needs 5 to 15, and a PDF of 5,000 pages 15."""
MAX_MEMORY_BYTES = 2**29
"""Beyond what the process needs itself, and eight bytes for each byte of the record."""
DONE, MALFORMED, OUT_OF_MEMORY, FAULT = range(4)
"""First byte of an answer. FAULT = the process cannot work, for example without its library."""
LAST = 4
"""Added to the first byte if the process wants to be replaced, because it holds much memory."""
LENGTH = struct.Struct("<Q")
NONE = 2**64 - 1
"""Length of a value that is None."""
_HEAD_BYTES = 1 + LENGTH.size
_PIPE_BYTES = 2**20
_CLOCK_FACTOR = 20
"""A process that has got no CPU time for so long is stopped, or the machine swaps."""
_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP)


class _DiedError(Exception):
    """The process has ended; the argument is its return code."""


def extract(kind: str, data: bytes, *arguments: str | None) -> list[str | None]:
    """What the extractor `kind` of `guard_process.py` finds in the bytes. Raises MalformedError as it does,
    and if the record breaks a limit or the process."""
    with _lock:
        guard, is_new = _find_guard()
        try:
            return _ask(guard, kind, data, arguments)
        except _DiedError as died:
            code = died.args[0]
            if code == -signal.SIGPROF or is_new:
                _raise(kind, code)
        return _ask_new(kind, data, arguments)


def _ask_new(kind: str, data: bytes, arguments: Sequence[str | None]) -> list[str | None]:
    try:
        return _ask(_find_guard()[0], kind, data, arguments)
    except _DiedError as died:
        return _raise(kind, died.args[0])


def _raise(kind: str, code: int | None) -> list[str | None]:
    """Whose fault the end of the process is: the record's, or the machine's."""
    if code is None:
        raise MalformedError(f"{kind}: needs more than {MAX_MEMORY_BYTES // 2**20:,} MiB of memory")
    if code == -signal.SIGPROF:
        raise MalformedError(f"{kind}: needs more than {MAX_SECONDS:g} s of CPU time")
    if -code in _CRASHES:
        raise MalformedError(f"{kind}: the library crashed ({signal.Signals(-code).name})")
    raise RuntimeError(
        f"the process that reads {kind} for this worker ended with status {code}. If it is -9, the machine "
        "lacked memory: give executors more (spark.executor.memoryOverhead) or fewer cores. Any other status "
        "is a fault: its last words are in the executor's stderr"
    )


class _Guard:
    """One process. After an error it is of no more use."""

    def __init__(self) -> None:
        command = [sys.executable, "-P", "-m", "pipelines.corpus.readers.guard_process"]
        places = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        # Arrow's own allocators reserve more addresses than they use, and the limit counts addresses.
        memory = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1"}
        environment = {**os.environ, "PYTHONPATH": places, **memory}
        limits = [str(MAX_MEMORY_BYTES), str(MAX_SECONDS)]
        self.pid = os.getpid()
        self._process = subprocess.Popen(
            command + limits, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, bufsize=0
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        self._writable, self._readable = (
            _prepare(self._in, select.POLLOUT),
            _prepare(self._out, select.POLLIN),
        )
        self.has_read = False

    def ask(self, fields: Sequence[bytes | None]) -> tuple[int, list[bytes | None]]:
        """Status and values of the answer. Raises _DiedError."""
        deadline = time.monotonic() + MAX_SECONDS * _CLOCK_FACTOR
        try:
            self._write(pack(fields), deadline)
            self.has_read = True
            answer = self._read(_HEAD_BYTES, deadline)
            (count,) = LENGTH.unpack_from(answer, 1)
            answer += self._read(_HEAD_BYTES + count - len(answer), deadline)
            return answer[0], unpack(bytes(memoryview(answer)[_HEAD_BYTES:]))
        except (EOFError, BrokenPipeError):
            raise _DiedError(self._process.wait()) from None

    def _write(self, data: bytes, deadline: float) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._in, rest) :]
            except BlockingIOError:
                _wait(self._writable, deadline)

    def _read(self, size: int, deadline: float) -> bytearray:
        """At least `size` bytes; more if they are there, because nothing follows an answer."""
        data = bytearray()
        while len(data) < size:
            _wait(self._readable, deadline)
            piece = os.read(self._out, _PIPE_BYTES)
            if not piece:
                raise EOFError
            data += piece
        return data

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()


_lock = threading.Lock()
_current: _Guard | None = None


def _find_guard() -> tuple[_Guard, bool]:
    """The guard of this process, and whether it has read no record yet."""
    global _current
    if _current is None or _current.pid != os.getpid():  # a fork must not share the pipes of its parent
        _current = _Guard()
    return _current, not _current.has_read


def _ask(guard: _Guard, kind: str, data: bytes, arguments: Sequence[str | None]) -> list[str | None]:
    """The answer of the guard; it is closed if it ends, wants to, or fails. Raises _DiedError."""
    try:
        given = [None if each is None else each.encode() for each in arguments]
        status, values = guard.ask([kind.encode(), data, *given])
    except BaseException:
        close_guard()
        raise
    if status >= LAST or status == OUT_OF_MEMORY:
        close_guard()
    status %= LAST
    texts = [None if value is None else value.decode("utf-8", "surrogatepass") for value in values]
    if status == OUT_OF_MEMORY:
        raise _DiedError(None)
    if status == MALFORMED:
        raise MalformedError(texts[0])
    if status == FAULT:
        raise RuntimeError(f"the process that extracts text ({kind}) cannot work: {texts[0]}")
    return texts


def close_guard() -> None:
    """End the guard of this process, if there is one. The next record starts another."""
    global _current
    guard, _current = _current, None
    if guard is not None and guard.pid == os.getpid():
        guard.close()


atexit.register(close_guard)


def pack(values: Sequence[bytes | None]) -> bytes:
    """A message: its length without these 8 bytes, then length and bytes of each value."""
    parts = [part for value in values for part in _pack(value)]
    return LENGTH.pack(sum(map(len, parts))) + b"".join(parts)


def _pack(value: bytes | None) -> tuple[bytes, bytes]:
    return (LENGTH.pack(NONE), b"") if value is None else (LENGTH.pack(len(value)), value)


def unpack(message: bytes) -> list[bytes | None]:
    """The values of a message, without its first 8 bytes."""
    values, position = list[bytes | None](), 0
    while position < len(message):
        (length,) = LENGTH.unpack_from(message, position)
        position += LENGTH.size
        if length == NONE:
            values.append(None)
        else:
            values.append(message[position : position + length])
            position += length
    return values


def _prepare(pipe: int, event: int) -> select.poll:
    """What waits for the pipe, after making room in it for most pages; only Linux can, within its limit."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    waiting = select.poll()
    waiting.register(pipe, event)
    return waiting


def _wait(waiting: select.poll, deadline: float) -> None:
    if not waiting.poll(max(deadline - time.monotonic(), 0) * 1000):
        raise RuntimeError(
            f"the process that extracts text has not answered for {MAX_SECONDS * _CLOCK_FACTOR:g} s; the "
            "machine stopped it or has no CPU time for it"
        )

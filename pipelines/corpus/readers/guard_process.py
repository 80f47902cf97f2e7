"""What runs in the guard process (`guard.py`): reads bytes from its input, extracts, writes text.

    python -m pipelines.corpus.readers.guard_process MAX_MEMORY_BYTES MAX_SECONDS

It ends at the end of its input, so also when its Python worker is killed.
"""

import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

from pipelines.corpus.readers.format import MalformedError
from pipelines.corpus.readers.guard import DONE, FAULT, LAST, LENGTH, MALFORMED, OUT_OF_MEMORY, pack, unpack
from pipelines.corpus.readers.pages import read_page
from pipelines.corpus.readers.parquet_footer import describe_footer
from pipelines.corpus.readers.pdf import read_pdf

_KEPT_BYTES = 2**28
"""Memory that the process may hold between two records; with more it asks to be replaced."""
_FACTOR = 8
"""Bytes for each byte of a record, besides the limit: for its copies, and for footers of many columns."""


def _extract_html(data: bytes, charset: str | None, main_content: str | None) -> Sequence[str | None]:
    return read_page(data, charset, main_content=bool(main_content))


def _extract_pdf(data: bytes, max_chars: str | None) -> Sequence[str | None]:
    *facts, num_pages = read_pdf(data, int(max_chars or 0))
    return *facts, str(num_pages)


def _describe_parquet(data: bytes, size: str | None, *names: str | None) -> Sequence[str | None]:
    return [describe_footer(data, int(size or 0), tuple(name for name in names if name))]


EXTRACTORS: dict[str, Callable[..., Sequence[str | None]]] = {
    "html": _extract_html,
    "parquet": _describe_parquet,
    "pdf": _extract_pdf,
}
_LIBRARIES = {"html": "resiliparse.extract.html2text", "parquet": "pyarrow.parquet", "pdf": "pypdfium2"}


def answer(kind: str, data: bytes, arguments: Sequence[str | None]) -> tuple[int, Sequence[str | None]]:
    """Status and values. Whatever a library raises for the bytes is a fault of the bytes."""
    extractor = EXTRACTORS[kind]
    try:
        return DONE, extractor(data, *arguments)
    except MalformedError as error:
        return MALFORMED, [str(error)]
    except MemoryError:
        return OUT_OF_MEMORY, []
    except ImportError as error:
        return FAULT, [str(error)]
    except Exception as error:
        return MALFORMED, [f"{kind}: {type(error).__name__}: {error}"[:500]]


def serve(requests: BinaryIO, answers: BinaryIO, max_memory_bytes: int, max_seconds: float) -> None:
    """Answer until the input ends."""
    # A record that takes longer ends the process, also in the middle of a library.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    begin, libraries = _memory(0), dict[str, int]()
    while head := requests.read(LENGTH.size):
        kind, data, *arguments = unpack(requests.read(*LENGTH.unpack(head)))
        name, data = (kind or b"").decode(), data or b""
        if name not in libraries:
            libraries[name] = _load(name)
        # Not what other libraries take: the limit is never above that of a new process.
        _limit_memory(begin + libraries[name] + max_memory_bytes + _FACTOR * len(data))
        signal.setitimer(signal.ITIMER_PROF, max_seconds)
        status, written = _answer_bytes(name, data, arguments)
        if status == MALFORMED and _peak() > max_memory_bytes // 2:
            status = OUT_OF_MEMORY  # which libraries do not always call so
        status += LAST if _memory(1) > _KEPT_BYTES else 0
        answers.write(bytes([status]) + pack(written))
        answers.flush()
        signal.setitimer(signal.ITIMER_PROF, 0)
        _limit_memory(resource.RLIM_INFINITY)
        del data


def _load(kind: str) -> int:
    """Load the library of an extractor. Returns the address space that it takes."""
    before = _memory(0)
    try:
        import_module(_LIBRARIES[kind])
    except ImportError:
        return 0  # the extractor says so
    return _memory(0) - before


def _answer_bytes(
    kind: str, data: bytes, arguments: Sequence[bytes | None]
) -> tuple[int, list[bytes | None]]:
    try:
        given = [None if each is None else each.decode() for each in arguments]
        status, values = answer(kind, data, given)
        return status, [None if value is None else value.encode("utf-8", "surrogatepass") for value in values]
    except MemoryError:
        return OUT_OF_MEMORY, []


def _peak() -> int:
    """Bytes of memory that this process has had at most; 0 if the system does not say. What getrusage says
    has the memory of the process that started this one."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def _memory(column: int) -> int:
    """Bytes of address space (0) or of memory (1) of this process; 0 if the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[column]) * resource.getpagesize()
    except OSError:
        return 0


def _limit_memory(num_bytes: int) -> None:
    """Limit the address space, within what the system allows. Without /proc (macOS) nobody knows what is in
    use, so there is no limit."""
    if not _memory(0):
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [each for each in (num_bytes, hard) if each != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits, default=resource.RLIM_INFINITY), hard))


def main() -> None:
    requests, answers = os.fdopen(os.dup(0), "rb", 2**20), os.fdopen(os.dup(1), "wb", 2**20)
    # A library that prints must not write into the answers.
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    serve(requests, answers, int(sys.argv[1]), float(sys.argv[2]))


if __name__ == "__main__":
    main()

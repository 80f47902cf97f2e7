"""What runs in the guard process (`guard.py`): reads bytes from its input, extracts, writes text.

    python -m pipelines.corpus.readers.guard_process MAX_MEMORY_BYTES MAX_SECONDS

It ends at the end of its input, so also when its Python worker is killed.
"""

import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from pipelines.corpus.readers.format import MalformedError
from pipelines.corpus.readers.guard import DONE, FAULT, LAST, LENGTH, MALFORMED, OUT_OF_MEMORY, pack, unpack
from pipelines.corpus.readers.pages import read_page
from pipelines.corpus.readers.parquet_footer import describe_footer
from pipelines.corpus.readers.pdf import read_pdf

_KEPT_BYTES = 2**28
"""Memory that the process may hold between two records; with more it asks to be replaced."""


def _extract_html(data: bytes, charset: str | None, main_content: str | None) -> Sequence[str | None]:
    return read_page(data, charset, main_content=bool(main_content))


def _extract_pdf(data: bytes, max_chars: str | None) -> Sequence[str | None]:
    text, title, num_pages = read_pdf(data, int(max_chars or 0))
    return text, title, str(num_pages)


def _describe_parquet(data: bytes, size: str | None, *names: str | None) -> Sequence[str | None]:
    return [describe_footer(data, int(size or 0), tuple(name for name in names if name))]


EXTRACTORS: dict[str, Callable[..., Sequence[str | None]]] = {
    "html": _extract_html,
    "parquet": _describe_parquet,
    "pdf": _extract_pdf,
}


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
    _limit_memory(max_memory_bytes)
    while head := requests.read(LENGTH.size):
        signal.setitimer(signal.ITIMER_PROF, max_seconds)
        status, written = _answer_bytes(requests.read(*LENGTH.unpack(head)))
        if status == MALFORMED and _peak() > max_memory_bytes // 2:
            status = OUT_OF_MEMORY  # which libraries do not always call so
        status += LAST if _peak() > _KEPT_BYTES and _memory(1) > _KEPT_BYTES else 0
        answers.write(bytes([status]) + pack(written))
        answers.flush()
        signal.setitimer(signal.ITIMER_PROF, 0)


def _answer_bytes(request: bytes) -> tuple[int, list[bytes | None]]:
    try:
        kind, data, *arguments = unpack(request)
        given = [None if each is None else each.decode() for each in arguments]
        status, values = answer((kind or b"").decode(), data or b"", given)
        return status, [None if value is None else value.encode("utf-8", "surrogatepass") for value in values]
    except MemoryError:
        return OUT_OF_MEMORY, []


def _peak() -> int:
    """Bytes of memory that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _memory(column: int) -> int:
    """Bytes of address space (0) or of memory (1) of this process; 0 if the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[column]) * resource.getpagesize()
    except OSError:
        return 0


def _limit_memory(max_memory_bytes: int) -> None:
    limit = _memory(0) + max_memory_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> None:
    requests, answers = os.fdopen(os.dup(0), "rb", 2**20), os.fdopen(os.dup(1), "wb", 2**20)
    # A library that prints must not write into the answers.
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    serve(requests, answers, int(sys.argv[1]), float(sys.argv[2]))


if __name__ == "__main__":
    main()

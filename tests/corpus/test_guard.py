"""Text is extracted in a process of its own: what a file does to it costs one record. Without Spark."""

import os
import signal
import subprocess
import sys
import threading
import zlib

import pytest

from pipelines.corpus.readers import guard, guard_process
from pipelines.corpus.readers.format import MalformedError
from pipelines.corpus.readers.guard import close_guard, extract, pack, unpack
from pipelines.corpus.readers.html import extract_page
from pipelines.corpus.readers.pages import read_page
from tests.corpus.documents import PAGE, make_pdf
from tests.corpus.reading import make_source, read_bytes, texts

# Each paragraph opens all bold elements again that were open before: 2,000 x 5,000 elements of 60 kB.
FORMATTING = b"<p>" + b"".join(b"<b id=%d>" % n for n in range(2_000)) + b"</p>" + b"<p>x</p>" * 5_000


@pytest.fixture(autouse=True)
def new_guard():
    close_guard()
    yield
    close_guard()


def read_small_page():
    return extract_page(b"<p>small</p>", None, main_content=True).text


def make_endless_pdf(num_lines=250_000):
    """A page whose content draws a line of text again and again: a few kB that expand to MB of commands."""
    line = b"BT /F1 12 Tf 72 720 Td (" + b"word " * 40 + b") Tj ET\n"
    content = zlib.compress(line * num_lines, 9)
    plain = make_pdf(["PLACE"])
    begin, end = plain.index(b"<< /Length "), plain.index(b"\nendstream")
    stream = b"<< /Filter /FlateDecode /Length %d >>\nstream\n" % len(content) + content
    return plain[:begin] + stream + plain[end:]


def test_guard_gives_what_the_library_gives():
    page = PAGE.format("标题 \x00", "正文 é" * 3_000).encode() + b"\xff" * 2
    for charset, main_content in ((None, True), ("gb18030", False)):
        expected = read_page(page, charset, main_content=main_content)
        assert extract_page(page, charset, main_content=main_content) == expected
    assert texts(read_bytes(make_pdf(["One.", "Two."]), make_source(format="pdf"))) == ["One.\n\nTwo."]


def test_values_keep_length_and_none():
    values = [b"", None, b"a" * 70_000, "第".encode()]
    message = pack(values)
    assert unpack(message[8:]) == values
    assert unpack(pack([])[8:]) == []


def test_one_process_reads_all_records():
    read_small_page()
    first = guard._current
    assert read_bytes(b"no pdf", make_source(format="pdf"))[0].reason.startswith("pdf: ")
    assert read_small_page() == "small"
    assert guard._current is first


def test_memory_of_the_worker_is_not_that_of_the_guard():
    held = bytes(guard.MAX_MEMORY_BYTES)  # zeros take no memory until they are copied
    copied = bytearray(held)
    assert (
        read_bytes(b"no pdf", make_source(format="pdf"))[0].reason
        == "pdf: Failed to load document (PDFium: Data format error)."
    )
    assert len(copied) == len(held)


def test_page_that_needs_too_much_memory_is_one_record(monkeypatch):
    monkeypatch.setattr(guard, "MAX_MEMORY_BYTES", 2**28)
    with pytest.raises(MalformedError, match=r"^html: needs more than 256 MiB of memory$"):
        extract_page(FORMATTING, None, main_content=True)
    assert read_small_page() == "small"


def test_pdf_that_needs_too_long_is_one_record(monkeypatch):
    monkeypatch.setattr(guard, "MAX_SECONDS", 0.3)
    with pytest.raises(MalformedError, match=r"^pdf: needs more than 0\.3 s of CPU time$"):
        extract("pdf", make_endless_pdf(), "16000000")
    assert read_small_page() == "small"


def end_process(monkeypatch, number, times):
    """Let the next processes end by a signal, `times` of them, when they get a record."""
    left = [times]
    ask = guard._Guard.ask

    def ask_dying(self, fields):
        if left[0]:
            left[0] -= 1
            os.kill(self._process.pid, number)
            self._process.wait()
        return ask(self, fields)

    monkeypatch.setattr(guard._Guard, "ask", ask_dying)


def test_crash_after_other_records_is_tried_again(monkeypatch):
    read_small_page()
    end_process(monkeypatch, signal.SIGSEGV, 1)
    assert read_small_page() == "small"


@pytest.mark.parametrize("has_read", [False, True])
def test_crash_in_a_new_process_is_the_record(monkeypatch, has_read):
    if has_read:
        read_small_page()
    end_process(monkeypatch, signal.SIGSEGV, 2 if has_read else 1)
    with pytest.raises(MalformedError, match=r"^html: the library crashed \(SIGSEGV\)$"):
        read_small_page()
    assert read_small_page() == "small"


def test_process_ended_by_the_machine_fails_the_task(monkeypatch):
    read_small_page()
    end_process(monkeypatch, signal.SIGKILL, 2)
    with pytest.raises(RuntimeError, match=r"status -9\. If it is -9, the machine lacked memory"):
        read_small_page()


def test_stopped_process_fails_the_task(monkeypatch):
    monkeypatch.setattr(guard, "_CLOCK_FACTOR", 0.01)
    read_small_page()
    os.kill(guard._current._process.pid, signal.SIGSTOP)
    with pytest.raises(RuntimeError, match=r"has not answered for 0\.3 s"):
        read_small_page()
    monkeypatch.undo()
    assert read_small_page() == "small"


def test_missing_library_fails_the_task(tmp_path, monkeypatch):
    (tmp_path / "pypdfium2.py").write_text("raise ImportError('no pypdfium2 here')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RuntimeError, match="cannot work: no pypdfium2 here"):
        extract("pdf", b"x", "10")


def test_what_a_library_raises_is_the_record(monkeypatch):
    def fail(data):
        raise KeyError("inside")

    monkeypatch.setitem(guard_process.EXTRACTORS, "html", fail)
    assert guard_process.answer("html", b"", []) == (guard.MALFORMED, ["html: KeyError: 'inside'"])


def test_process_ends_with_its_worker():
    code = (
        "import os\nfrom pipelines.corpus.readers import guard\n"
        "guard.extract('html', b'<p>a</p>', None, None)\n"
        "print(guard._current._process.pid, flush=True)\nos.kill(os.getpid(), 9)"
    )
    worker = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    pid = int(worker.stdout)
    ended = threading.Event()
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            ended.set()
            break
        ended.wait(0.05)
    assert ended.is_set()


def test_fork_starts_a_process_of_its_own():
    read_small_page()
    child = os.fork()
    if child == 0:
        os._exit(0 if read_small_page() == "small" and guard._current.pid == os.getpid() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert read_small_page() == "small"


def test_process_that_asks_for_it_is_replaced(monkeypatch):
    ask = guard._Guard.ask

    def ask_last(self, fields):
        status, values = ask(self, fields)
        return status + guard.LAST, values

    monkeypatch.setattr(guard._Guard, "ask", ask_last)
    assert read_small_page() == "small"
    assert guard._current is None

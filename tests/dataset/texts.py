"""Real texts of three kinds: English, Chinese and code."""

import gzip
import json
import sysconfig
from pathlib import Path

DATA = Path(__file__).parents[2] / "data"
CHARS = 2_000
"""Of a text."""


def cut_texts(content: str, num_texts: int) -> list[str]:
    return [content[place : place + CHARS] for place in range(0, min(len(content), num_texts * CHARS), CHARS)]


def read_english() -> list[str]:
    book = min((DATA / "gutenberg_en").rglob("*.gz"), key=lambda file: file.name)
    return cut_texts(gzip.decompress(book.read_bytes()).decode(), 100)


def read_chinese() -> list[str]:
    with gzip.open(DATA / "web_chinese" / "wikipedia.jsonl.gz", "rt", encoding="utf-8") as lines:
        return cut_texts("\n".join(json.loads(next(lines))["text"] for _ in range(100)), 50)


def read_code() -> list[str]:
    """Python's own: typing, email, encodings with all their escapes."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = ("typing.py", "email/header.py", "encodings/cp1251.py", "html/entities.py")
    return cut_texts("".join((folder / name).read_text(encoding="utf-8") for name in files), 100)


KINDS = {"english": read_english, "chinese": read_chinese, "code": read_code}

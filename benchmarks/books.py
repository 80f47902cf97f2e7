"""Corpora of any size from the books of data/gutenberg_en: real sentences, and texts that differ."""

import gzip
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

BOOKS = Path(__file__).parent.parent / "data" / "gutenberg_en"
DOCUMENT_CHARS = 3_800
"""About the mean of web pages."""
_PII_FRACTION, _COPY_FRACTION = 0.1, 0.01
_NUM_RECENT = 50


def write_books(folder: Path, num_files: int, megabytes: float) -> None:
    """JSON Lines files of so many MB each. One text in a hundred is an exact copy of another one of its file,
    one in a hundred a near copy, and one in ten has personal data."""
    folder.mkdir(parents=True)
    paragraphs = split_books()
    for number in range(num_files):
        left = megabytes * 1e6
        with (folder / f"{number:03}.jsonl").open("w", encoding="utf-8") as file:
            for text in make_texts(paragraphs, random.Random(number)):
                left -= file.write(json.dumps({"text": text}) + "\n")
                if left <= 0:
                    break


def split_books() -> list[str]:
    """The paragraphs of 200 to 1,000 characters, each in one line.

    A longer one would be most of a text, and the more texts there are, the more would be copies by chance.
    """
    books = (gzip.decompress(file.read_bytes()).decode() for file in sorted(BOOKS.rglob("*.gz")))
    found = (" ".join(part.split()) for book in books for part in re.split(r"\n\s*\n", book))
    return sorted({part for part in found if 200 <= len(part) <= 1_000})


def make_texts(paragraphs: list[str], draw: random.Random) -> Iterator[str]:
    """Texts without end. Two that are no copies share a paragraph in one of 30 pairs, so they are unlike."""
    recent = list[str]()
    while True:
        chance = draw.random()
        if recent and chance < _COPY_FRACTION:
            yield draw.choice(recent)
            continue
        if recent and chance < 2 * _COPY_FRACTION:
            words = draw.choice(recent).split(" ")
            words[draw.randrange(len(words))] = f"word{draw.randrange(10**6)}"
            yield " ".join(words)
            continue
        parts = list[str]()
        while sum(map(len, parts)) < DOCUMENT_CHARS:
            parts.append(draw.choice(paragraphs))
        if draw.random() < _PII_FRACTION:
            parts.append(f"Write to reader{draw.randrange(10**6)}@library.org, or call +1 212 555 0142.")
        text = "\n".join(parts)
        recent = [*recent[1 - _NUM_RECENT :], text]
        yield text

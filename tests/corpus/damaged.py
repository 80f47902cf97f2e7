"""Files of each format from texts that the project ships, damaged; bombs; and what must be left of them."""

import bz2
import csv
import gzip
import io
import json
import random
import re
import zlib
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from tests.conftest import BANKING77
from tests.corpus.documents import make_file, make_pdf
from tests.corpus.test_damage import COMPRESSIONS, DAMAGES, FORMATS, flip
from tests.corpus.test_guard import FORMATTING, make_endless_pdf

WIKIPEDIA = BANKING77.parent / "web_chinese" / "wikipedia.jsonl.gz"
ONE_DOCUMENT = ("html", "markdown", "pdf", "text")
LINES = ("jsonl", "lines", "tsv")
ZEROS = bytes(2**24)


class Damaged(NamedTuple):
    format: str
    file: str
    texts: list[str]
    """Of the records before the damage."""
    damage: str
    """none, or what was done."""
    num_lost: int | None
    """Records that may be lost at most; None = any number."""


def load_texts() -> list[str]:
    """Sentences in English and Chinese, without characters that a format would have to escape."""
    with (BANKING77 / "test.csv").open(newline="", encoding="utf-8") as file:
        english = [row["text"] for row in csv.DictReader(file)]
    with gzip.open(WIKIPEDIA, "rt", encoding="utf-8") as file:
        chinese = [sentence for line in file for sentence in json.loads(line)["text"].split("。")[:9]]
    cleaned = (" ".join(re.sub(r"[^\w .,，？?]", "", text).split()) for text in [*english, *chinese[:4_000]])
    return [text for text in cleaned if 20 < len(text) < 300]


def write_damaged_files(folder: Path, num_files: int, seed: int) -> list[Damaged]:
    """Files of all formats below folder/FORMAT; a third of them is not damaged, some are larger."""
    generator, texts = random.Random(seed), load_texts()
    written = []
    for number in range(num_files):
        name = FORMATS[number % len(FORMATS)]
        num_texts = 3_000 if number % 97 == 13 and name not in ONE_DOCUMENT else generator.randrange(5, 60)
        chosen = generator.choices(texts, k=num_texts)
        if name == "pdf":
            chosen = [text.encode("ascii", "ignore").decode() for text in chosen]
        made, data = _make_damaged(name, chosen, generator, f"{number:04d}")
        path = folder / name / made.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        written.append(made)
    return written


def _make_damaged(name: str, texts: list[str], draw: random.Random, prefix: str) -> tuple[Damaged, bytes]:
    _, file, data = make_file(name, texts)
    damage = "none" if draw.random() < 0.33 else draw.choice([each for each in DAMAGES if each != "none"])
    suffix = draw.choice([*COMPRESSIONS]) if name not in ("warc", "parquet") else ""
    compress = compress_in_members if suffix == ".gz" and draw.random() < 0.5 else COMPRESSIONS[suffix]
    is_inside, lost = draw.random() < 0.5 or not suffix, None
    if damage == "none":
        data, lost = compress(data), 0
    elif damage == "flip" and is_inside:
        times = draw.randrange(1, 6)
        lost = 2 * times if name in LINES else None
        below = data.index(b"\n") + 1 if name == "tsv" else 0
        data = compress(data[:below] + flip(data[below:], draw, times))
    elif is_inside:
        data = compress(DAMAGES[damage](data, draw))
    else:
        data = DAMAGES[damage](compress(data), draw)
    return Damaged(name, f"{prefix}-{file}{suffix}", texts, damage, lost), data


def compress_in_members(data: bytes, num_bytes: int = 1_500) -> bytes:
    """gzip members that end anywhere."""
    pieces = [data[at : at + num_bytes] for at in range(0, len(data), num_bytes)]
    return b"".join(gzip.compress(piece, mtime=0) for piece in pieces)


def write_gzip_bomb(path: Path, num_bytes: int) -> None:
    """Zero bytes between two records."""
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(b'{"t": "text before the bomb"}\n')
        for _ in range(num_bytes // len(ZEROS)):
            file.write(ZEROS)
        file.write(b'\n{"t": "text behind the bomb"}\n')


def write_bombs(folder: Path, num_bytes: int, *, is_long: bool) -> dict[tuple[str, str], list[str]]:
    """Bombs of `num_bytes` or, without `is_long`, the quick ones. By format and file: how the reasons of its
    broken records begin; an empty one is a document."""
    bombs: dict[tuple[str, str], tuple[bytes | None, list[str]]] = {
        ("jsonl", "bomb.jsonl.gz"): (None, ["", "too long", ""]),
        # Without the time: one of its bytes may be a line feed.
        ("jsonl", "nested.jsonl.gz"): (
            gzip.compress(gzip.compress(b'{"t": "inside"}\n', mtime=0), mtime=0),
            ["invalid"],
        ),
        ("jsonl", "values.jsonl"): (b'{"t": "x", "j": [' + b"[]," * 60_000 + b"0]}\n", [""]),
        ("lines", "bomb.txt.bz2"): (bz2.compress(b"first line\n" + ZEROS * 4), ["", "too long"]),
        ("csv", "bomb.csv.gz"): (_make_csv_bomb(), ["open quote", "too long", "number of fields"]),
        ("html", "bomb.html"): (FORMATTING, ["html: needs more than"]),
        ("html", "deep.html"): (b"<div>" * 30_000, [""]),
        ("warc", "bomb.warc.gz"): (_make_warc_bomb(), ["", "too long", ""]),
        ("pdf", "bomb.pdf"): (make_endless_pdf(30_000), [""]),
        ("pdf", "pages.pdf"): (make_pdf(["a"] * 300)[:-300], ["pdf: "]),
        ("parquet", "bomb.parquet"): (_make_parquet_bomb(), ["NUL"]),
    }
    if is_long:
        packed = zstandard.ZstdCompressor().compressobj()
        data = b"".join(packed.compress(ZEROS) for _ in range(160)) + packed.flush()
        bombs["lines", "bomb.txt.zst"] = (data, ["too long", "zstd: the file expands to more than 1,100"])
    for (name, file), (content, _) in bombs.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        if content is None:
            write_gzip_bomb(folder / name / file, num_bytes)
        else:
            (folder / name / file).write_bytes(content)
    return {place: reasons for place, (_, reasons) in bombs.items()}


def _make_csv_bomb() -> bytes:
    """A field that is opened and never closed, with one endless line in it."""
    return gzip.compress(b't,n\n"open\n' + b"a" * 2**22 + b"\nlast\n", mtime=0)


def _make_warc_bomb() -> bytes:
    """A body of 64 MB in a member of 64 kB, between two records."""
    begin = b"WARC/1.0\r\nWARC-Type: conversion\r\nContent-Type: text/plain\r\nContent-Length: "
    bodies = (b"before the bomb", ZEROS * 4, b"behind the bomb")
    return b"".join(
        zlib.compress(begin + b"%d\r\n\r\n" % len(body) + body + b"\r\n\r\n", 9, 31) for body in bodies
    )


def _make_parquet_bomb() -> bytes:
    """One value of 64 MB in a page of a few kB."""
    target = io.BytesIO()
    table = pa.table({"t": [ZEROS.decode() * 4]})
    pq.write_table(table, target, compression="zstd", use_dictionary=False, write_statistics=False)
    return target.getvalue()

"""Make sample.jsonl.gz: texts, and what datatrove's filters say about each.

Run from the root of the project, after `python -m benchmarks.peers`: python -m tests.corpus.verdicts.make
"""

import gzip
import json
import subprocess
from pathlib import Path

import rjieba

from benchmarks.peers import find_peer
from tests.corpus.reading import make_source, read_bytes
from tests.corpus.verdicts.texts import Prose, make_edited

HERE, DATA = Path(__file__).parent, Path(__file__).parents[3] / "data"
SAMPLE = HERE / "sample.jsonl.gz"
ENGLISH = ["gopher_repetition@datatrove", "gopher_quality@datatrove", "c4@datatrove", "c4@fineweb", "fineweb"]
CHINESE = ["fineweb2@cmn_Hani"]
Found = list[tuple[str, str]]
"""(source, text)."""


def read_rows(path: str) -> list[dict]:
    return [json.loads(line) for line in gzip.decompress((DATA / path).read_bytes()).splitlines()]


def take_evenly(texts: Found, count: int) -> Found:
    return [texts[place * len(texts) // count] for place in range(count)]


def cut_pieces(source: str, text: str, size: int) -> Found:
    """Pieces of at least `size` characters that end at a line break; the last one may be shorter."""
    pieces, lines = list[str](), list[str]()
    for line in text.splitlines():
        lines.append(line)
        if sum(map(len, lines)) >= size:
            pieces.append("\n".join(lines).strip())
            lines = []
    pieces.append("\n".join(lines).strip())
    return [(f"{source} {number}", piece) for number, piece in enumerate(pieces) if piece]


def read_books() -> Found:
    found: Found = []
    for file in sorted((DATA / "gutenberg_en").rglob("*.gz")):
        text = gzip.decompress(file.read_bytes()).decode()
        found += cut_pieces(f"gutenberg_en/{file.name.split('.')[0]}", text, 1_000)[:-1]
    return found


def read_handbook(path: str, language: str) -> Found:
    records = read_bytes((DATA / path).read_bytes(), make_source(format="warc"), path=path)
    found: Found = []
    for columns in (each.columns for each in records if each.columns):
        url = columns.metadata["url"]
        if f"/{language}/" in url and columns.text:
            name = f"debian_handbook/{url.rpartition('/')[2].removesuffix('.html')}"
            found += cut_pieces(name, columns.text, 1_000)
    return [piece for piece in found if len(piece[1]) < 3_000]


def join_sentences(language: str, count: int, separator: str) -> Found:
    rows = [row["text"] for row in read_rows("chinese/sib200.jsonl.gz") if row["language"] == language]
    return [
        (f"sib200/{first}", separator.join(rows[first : first + count]))
        for first in range(0, len(rows) - count, count)
    ]


def unwrap(texts: Found) -> Found:
    """The prose of books, a paragraph a line."""
    return [
        (source, "\n".join(" ".join(each.split()) for each in text.split("\n\n") if each.strip()))
        for source, text in texts
    ]


def make_english() -> list[tuple[str, str, str]]:
    books, handbook = read_books(), read_handbook("web_english/debian_handbook.warc.gz", "en-US")
    natural = [
        *take_evenly(books, 60),
        *unwrap(take_evenly(books[3:], 30)),
        *take_evenly(handbook, 100),
        *take_evenly(join_sentences("en", 6, "\n"), 20),
        *take_evenly(join_sentences("en", 7, " "), 20),
    ]
    prose = [
        Prose(source, tuple(text.split()), " ")
        for pair in zip(
            take_evenly(unwrap(books[7:]), 60), take_evenly(join_sentences("en", 7, " "), 60), strict=True
        )
        for source, text in pair
    ]
    # 100,000 word tokens and one more: the comma is none.
    words = " ".join(["the", "cats", "have", "run,"] * 25_000)
    return [
        *((source, "", text) for source, text in natural),
        *make_edited(ENGLISH, prose, 4),
        ("made", "max_num_word_tokens", words),
        ("made", "max_num_word_tokens", f"{words} again"),
    ]


def make_chinese() -> list[tuple[str, str, str]]:
    wikipedia = [
        (f"wikipedia/{row['id']}", row["text"]) for row in read_rows("web_chinese/wikipedia.jsonl.gz")
    ]
    tidb = [(f"tidb/{row['id']}", row["text"]) for row in read_rows("chinese/tidb_docs.jsonl.gz")]
    classics = [(f"classics/{row['id']}", row["text"]) for row in read_rows("chinese/classics.jsonl.gz")]
    handbook = read_handbook("web_chinese/debian_handbook.warc.gz", "zh-CN")
    natural = [
        *take_evenly(wikipedia, 20),
        *take_evenly(handbook, 16),
        *take_evenly(tidb, 16),
        *((source, text[:800]) for source, text in take_evenly(classics, 8)),
    ]
    prose = [Prose(source, tuple(rjieba.cut(text)), "") for source, text in take_evenly(wikipedia[5:], 46)]
    return [
        *((source, "", text) for source, text in natural),
        *make_edited(CHINESE, prose, 2),
        ("made", "min_mean_token_length", "，。" * 30),  # no word at all
    ]


def make_rows() -> list[dict]:
    return [
        {
            "id": f"{language}-{number:03}",
            "source": source,
            "edit": edit,
            "language": language,
            "text": text.strip(),
        }
        for language, made in (("en", make_english()), ("zh", make_chinese()))
        for number, (source, edit, text) in enumerate(made)
    ]


def judge(rows: list[dict]) -> tuple[dict, list[dict]]:
    """Versions of datatrove and its tokenizers, and its verdicts on the rows; see peer.py."""
    python = find_peer("datatrove")
    if python is None:
        raise FileNotFoundError("datatrove or its jieba is not installed; run: python -m benchmarks.peers")
    asked = "".join(json.dumps(row) + "\n" for row in rows)
    command = [python, HERE / "peer.py"]
    done = subprocess.run(command, input=asked, stdout=subprocess.PIPE, text=True, check=True, timeout=1800)
    versions, *verdicts = map(json.loads, done.stdout.splitlines())
    return versions, verdicts


def write_sample(versions: dict, rows: list[dict], verdicts: list[dict]) -> None:
    lines = [versions, *({**row, **verdict} for row, verdict in zip(rows, verdicts, strict=True))]
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    SAMPLE.write_bytes(gzip.compress(content.encode(), mtime=0))
    print(f"{SAMPLE.name}: {len(rows)} texts, {SAMPLE.stat().st_size:,} bytes")


def main() -> None:
    rows = make_rows()
    versions, verdicts = judge(rows)
    write_sample(versions, rows, verdicts)


if __name__ == "__main__":
    main()

"""Files of three formats with repeated paragraphs, and what the stage has to make of them, by the twin."""

import csv
import gzip
import io
import json
import random
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines.corpus.build import open_corpus
from pipelines.corpus.ids import content_hash
from pipelines.corpus.manifest import list_sources
from pipelines.corpus.rules import Rules
from pipelines.corpus.source import Source
from pipelines.corpus.split import find_split
from tests.corpus.paragraphs.twin import Document, cut_text, deduplicate

SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}
_ENGLISH = [f"{'line ' * 7}{number}" for number in range(6)]
_CHINESE = [f"我的银行卡还没有到{'呢' * number}" for number in (1, 2, 3)]
_LINES = [
    *_ENGLISH,
    *_CHINESE,
    "short",
    "",
    "",
    " \u3000 ",
    f"  {_ENGLISH[1]}",
    '"quoted", with a comma and 1',
]


def make_records(seed: int, num_records: int = 120) -> list[dict]:
    """Texts of few different lines, so that most are copies; some whole texts and, of 10 records, one key are
    repeated. A third has no split."""
    draw = random.Random(seed)
    texts = [
        "\n".join(draw.choices(_LINES, k=draw.randint(1, 6))).strip() for _ in range(num_records * 4 // 5)
    ]
    texts += draw.choices(texts, k=num_records - len(texts))
    draw.shuffle(texts)
    records = [
        {"text": f"{text}\nown {number}".strip() if draw.random() < 0.3 else text, "key": f"k{number}"}
        for number, text in enumerate(texts)
    ]
    for number, record in enumerate(records):
        record["split"] = draw.choice(["train", "train", "validation", "test", "", ""])
        if number % 10 == 9:
            record["key"] = records[number - 5]["key"]
    return records


def write_sources(folder: Path, records: list[dict]) -> list[Source]:
    """Half of the records as CSV with keys, the others as JSON Lines, half of these as gzip members."""
    third = len(records) // 4
    parts = [records[: 2 * third], records[2 * third : 3 * third], records[3 * third :]]
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
    with io.StringIO(newline="") as rows:
        writer = csv.DictWriter(rows, ["text", "key", "split"])
        writer.writeheader()
        writer.writerows(parts[0])
        (folder / "a" / "1.csv").write_bytes(rows.getvalue().encode())
    lines = [[f"{json.dumps(each, ensure_ascii=False)}\n".encode() for each in part] for part in parts[1:]]
    (folder / "b" / "1.jsonl").write_bytes(b"".join([*lines[0], b"broken\n"]))
    (folder / "b" / "2.jsonl.gz").write_bytes(b"".join(gzip.compress(line, mtime=0) for line in lines[1]))
    fields = {"text": "text", "split": "split"}
    return [
        Source(name="a", path=f"{folder}/a", format="csv", fields={**fields, "key": "key"}, splits=SHARES),
        Source(name="b", path=f"{folder}/b", format="jsonl", fields=fields, splits=SHARES),
    ]


def list_documents(records: list[dict]) -> list[Document]:
    """The records that become documents, in the order of the files: of two with one key, the first."""
    keyed, documents = set[str](), list[Document]()
    for number, record in enumerate(records):
        if number < len(records) // 4 * 2:
            if record["key"] in keyed:
                continue
            keyed.add(record["key"])
        split = record["split"] or find_split(content_hash(record["text"].encode(), None), SHARES)
        documents.append(Document(split, 0, number, record["text"]))
    return documents


def cut_words(text: str, unit: str) -> list[str]:
    """The paragraphs of a text, with one space between words."""
    return [" ".join("\n".join(lines).split()) for lines in cut_text(text, unit)]


def expect(records: list[dict], settings) -> list[tuple[str, list[str]]]:
    """(split, paragraphs) of each document, in the order of the files."""
    documents = list_documents(records)
    kept = deduplicate(documents, settings)
    return [(each.split, paragraphs) for each, paragraphs in zip(documents, kept, strict=True)]


@contextmanager
def build(spark, sources, settings, rules=None, search=None):
    """(rows of documents in the order of the files, the corpus)."""
    with (
        TemporaryDirectory() as table,
        open_corpus(
            spark, sources, list_sources(sources), rules or Rules(), search, paragraphs=settings
        ) as corpus,
        corpus.hold_documents(table) as held,
    ):
        yield held.rows.orderBy("source", "file", "offset").collect(), corpus

"""Contents of reports made by hand, for tests of the page, and documents to write a report about."""

import pyarrow as pa
from deltalake import CommitProperties, write_deltalake

from pipelines.commit_record import encode_record
from pipelines.corpus.report.content import COPY, Amount, Content, Example, Fault, TokenCounts
from pipelines.corpus.rules import Rules
from pipelines.pin import Pin, pin
from pipelines.report import TableVersion

SHORT_LINES, STOP_LINES = "fineweb/max_short_line_fraction", "fineweb/min_stop_line_fraction"
RULES = Rules(min_chars=20, languages=("en",), presets=("fineweb",))


def make_example(text="Menu | Home | Contact", **values):
    own = {
        "doc_id": "ab" * 16,
        "source": "web",
        "file": "a.warc.gz",
        "offset": 4711,
        "num_chars": len(text),
        "text": text,
    }
    return Example(**{**own, **values})


def make_token_counts(**values):
    """A token is four characters, in Chinese one. The kept documents of news are exact."""
    own = {
        "tokenizer": "tokenizer of gpt",
        "num_sampled": 16,
        "estimates": {
            ("web", None): 2_250,
            ("news", None): 1_250,
            ("web", "language"): 1_500,
            ("web", SHORT_LINES): 75,
            ("news", COPY): 1_250,
        },
        "kept": {},
    }
    return TokenCounts(**{**own, **values})


def make_content(**values):
    """10 of 16 documents kept, in two sources; every number has one place on the page."""
    table = TableVersion(
        name="documents", version=3, digest="cd" * 16, num_rows=16, written="2026-01-02 03:04 UTC"
    )
    own = {
        "title": "web",
        "tables": [table],
        "rules": RULES,
        "outcomes": {
            ("web", None): Amount(9, 9_000),
            ("news", None): Amount(1, 5_000),
            ("web", "language"): Amount(3, 1_500),
            ("web", SHORT_LINES): Amount(2, 300),
            ("news", COPY): Amount(1, 5_000),
        },
        "lengths": {
            (True, 10): Amount(9, 9_000),
            (True, 13): Amount(1, 5_000),
            (False, 8): Amount(2, 300),
            (False, 9): Amount(3, 1_500),
            (False, 13): Amount(1, 5_000),
        },
        "languages": {
            (True, "en"): Amount(10, 14_000),
            (False, "en"): Amount(3, 5_300),
            (False, "zh-Hans"): Amount(3, 1_500),
        },
        "clusters": {(COPY, 2): 1},
        "searched": False,
        "contamination": None,
        "removed": None,
        "faults": [Fault(source="web", kind="http", num_records=4, file="a.warc.gz", offset=99)],
        "examples": {
            "language": [make_example("今天天气很好。", url="https://example.org/zh")],
            SHORT_LINES: [make_example()],
            COPY: [make_example("Again. " * 60, num_chars=9_000, duplicate_of="ef" * 16)],
        },
        "tokens": None,
        "token_counts": "Tokens are not known: no tokenizer.",
    }
    return Content(**{**own, **values})


def commit_documents(path: str, facts: dict) -> Pin:
    """Replace the table with one that holds no document, committed as corpus commits, without a JVM."""
    record = {"table": "documents", "digest": "cd" * 16, "num_rows": 0, "fingerprint": "a" * 32}
    own = CommitProperties(custom_metadata={"userMetadata": encode_record({**record, "facts": facts})})
    rows = pa.table({"doc_id": pa.array([], pa.string())})
    write_deltalake(path, rows, mode="overwrite", commit_properties=own)
    return pin(path)

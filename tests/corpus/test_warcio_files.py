"""The files on which warcio tests itself: broken, truncated, unusual. Counts are those of the records that
`zgrep WARC-Type` and `Content-Type` show; the reasons are written by hand.
"""

import json
from pathlib import Path

import pytest

from jobs import corpus
from jobs.shell.settings import load
from pipelines.tables import DOCUMENTS, QUARANTINE
from tests.conftest import TEST_CONF
from tests.corpus.reading import make_source, read_bytes

FILES = Path(__file__).parent / "warcio" / "files"
ARC = "does not start a record; ARC files must be converted to WARC first"
NO_START = "does not start a record"
JSON = "content type: application/json is neither HTML nor text"
EXPECTED: dict[str, tuple[int, list[str]]] = {
    "bad.arc": (0, [ARC]),
    "example-bad-non-chunked.warc.gz": (
        0,
        ["a gzip member holds more than one record; compress each record"],
    ),
    "example-bad.warc.gz.bad": (0, [NO_START]),
    "example-digest.warc": (0, []),  # four requests
    "example-iana.org-chunked.warc": (1, []),
    "example-resource.warc.gz": (1, []),
    "example-space-in-target-uri.warc.gz": (0, ["content type: image/png is neither HTML nor text"]),
    "example-space-in-url.arc": (0, [ARC]),
    "example-trunc.warc": (0, ["no blank line follows the record; Content-Length is 973"]),
    "example-wget-bad-target-uri.warc.gz": (3, []),  # a page, and two texts that wget wrote about itself
    "example-wrong-chunks.warc.gz": (0, ["the record ends after 734 of 2,004 bytes", NO_START]),
    "example.arc": (0, [ARC]),
    "example.arc.gz": (0, [ARC, NO_START]),
    "example.warc": (1, []),  # a response; the revisit has no content
    "example.warc.gz": (1, []),
    "post-test.warc.gz": (0, [JSON, JSON, JSON]),
}
MUST_FAIL = ("example-bad-non-chunked.warc.gz", "example-bad.warc.gz.bad", "example-wrong-chunks.warc.gz")


def test_every_file_has_its_expectation():
    assert sorted(path.name for path in FILES.iterdir()) == sorted(EXPECTED)
    assert all(EXPECTED[name][1] for name in MUST_FAIL)


@pytest.mark.parametrize(
    ("name", "num_documents", "reasons"), [(name, *each) for name, each in EXPECTED.items()]
)
def test_a_file_gives_its_documents_and_reasons(name, num_documents, reasons):
    records = read_bytes((FILES / name).read_bytes(), make_source(format="warc"), path=name)
    assert sum(record.columns is not None for record in records) == num_documents
    found = [record.reason for record in records if record.reason]
    assert len(found) == len(reasons)
    for reason, expected in zip(found, reasons, strict=True):
        assert expected in reason


def test_a_folder_with_broken_files_loses_no_other_file(spark, tmp_path):
    source = {"name": "crawl", "path": str(FILES), "format": "warc", "splits": {"train": 1.0}}
    overrides = [
        "recipe=r",
        f"root={tmp_path}",
        f"spark={json.dumps(TEST_CONF)}",
        f"corpus.sources=[{json.dumps(source)}]",
        "corpus.max_quarantined_fraction=1.0",
        "corpus.max_damaged_fraction=1.0",
    ]
    config = load(overrides=overrides).section("corpus", corpus.Config)
    corpus.main(config)
    documents = DOCUMENTS.read(spark, config.documents).groupBy("file").count().collect()
    broken = QUARANTINE.read(spark, config.quarantine).select("file", "offset", "reason").collect()
    assert {row["file"]: row["count"] for row in documents} == {
        name: num_documents for name, (num_documents, _) in EXPECTED.items() if num_documents
    }
    for name, (_, reasons) in EXPECTED.items():
        rows = sorted((row["offset"], row["reason"]) for row in broken if row["file"] == name)
        assert len(rows) == len(reasons)
        for (_, reason), expected in zip(rows, reasons, strict=True):
            assert expected in reason

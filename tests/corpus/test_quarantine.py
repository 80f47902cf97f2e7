"""Sources that are mostly broken stop the stage. Messages are written by hand."""

import gzip
import json

import pytest

from jobs import corpus
from jobs.shell.settings import load
from pipelines.corpus.quarantine import choose_remedy, require_few_quarantined
from pipelines.pin import pin
from pipelines.tables import DOCUMENTS, QUARANTINE
from tests.conftest import flow_overrides
from tests.corpus.reading import make_source, read_bytes

SCHEMA = "source STRING, file STRING, offset BIGINT, reason STRING"
FACTS = {
    "quarantined": 5,
    "sources": {
        "a": {"records": 10, "quarantined": 1, "damaged": 0},
        "b": {"records": 4, "quarantined": 4, "damaged": 0},
    },
}
NUM_FILES = {"a": 4, "b": 4}
ROWS = [
    ("a", "f", 0, "NUL: x"),
    ("b", "g", 9, "text: field 't' is a number, not a string"),
    ("b", "f", 3, "text: field 't' is null or missing, not a string"),
    ("b", "f", 0, "number of fields: 1, but the header has 2"),
    ("b", "f", 9, "text: field 't' is null or missing, not a string"),
]


def check(facts, quarantine, max_quarantined, max_damaged=0.5):
    require_few_quarantined(
        facts,
        quarantine,
        max_quarantined_fraction=max_quarantined,
        max_damaged_fraction=max_damaged,
        num_files=NUM_FILES,
    )


@pytest.mark.parametrize("max_fraction", [1.0, 0.1])
def test_fraction_is_the_largest_share_allowed(spark, max_fraction):
    quarantine = spark.createDataFrame(ROWS, SCHEMA)
    few = {"quarantined": 1, "sources": {"a": FACTS["sources"]["a"]}}
    check(few, quarantine, max_fraction)
    with pytest.raises(ValueError, match="source 'a': 1 of 10 records"):
        check(few, quarantine, 0.09)


def test_damaged_files_count_as_files(spark):
    # One row per damaged file, however many records it held: 3 of 1,000,003 records, but 3 of 4 files.
    rows = [("a", f"{number}.parquet", 0, "parquet: the footer is damaged") for number in range(3)]
    facts = {"quarantined": 3, "sources": {"a": {"records": 1_000_003, "quarantined": 3, "damaged": 3}}}
    quarantine = spark.createDataFrame(rows, SCHEMA)
    check(facts, quarantine, 0.1, 0.75)
    with pytest.raises(ValueError, match=r"source 'a'.*fetch the files again"):
        check(facts, quarantine, 0.1, 0.7)


def test_message_names_sources_reasons_and_remedies(spark):
    with pytest.raises(ValueError, match="source 'b': 4 of 4 records") as raised:
        check(FACTS, spark.createDataFrame(ROWS, SCHEMA), 0.5)
    message = str(raised.value)
    assert "source 'a'" not in message
    assert (
        "3 x \"text: field 't' is null or missing, not a string\": correct the mapping of fields" in message
    )
    assert "; 1 x 'number of fields: 1, but the header has 2': correct the options of the format" in message
    assert "corpus.max_quarantined_fraction = 0.5" in message


MAPPED = {"fields": {"text": "t", "key": "k", "split": "s"}, "metadata": {"m": "m"}, "max_record_bytes": 90}
CASES = [
    ("csv", b"t,k,s,m\na,b\n", "number of fields"),
    ("csv", b't,k,s,m\na"b",1,,\n', "quote or line break"),
    ("csv", b't,k,s,m\n"a,1,,\n', "open quote"),
    ("csv", b"t,k,s,m\na\0,1,,\n", "NUL"),
    ("csv", b"t,k,s,m\na,,,\n", "key"),
    ("csv", b"t,k,s,m\na,1,dev,\n", "split"),
    ("csv", b"x\na\n", "header"),
    ("jsonl", b"{", "invalid JSON"),
    ("jsonl", b"[]", "not an object"),
    ("jsonl", b'{"t": 7}', "text"),
    ("jsonl", b'{"t": "a", "k": "1", "m": []}', "metadata m"),
    ("jsonl", b"\xff", "invalid UTF-8"),
    ("jsonl", b" " * 91, "too long"),
    ("parquet", b"PAR1", "parquet"),
]


@pytest.mark.parametrize(("name", "data", "kind"), CASES)
def test_each_kind_of_reason_has_its_remedy(name, data, kind):
    (*_, last) = read_bytes(data, make_source(format=name, **MAPPED))
    assert last.reason.partition(":")[0] == kind
    assert choose_remedy(kind) != choose_remedy("unheard of")


FILES = [
    ("warc", {}, b"nonsense", "warc"),
    ("warc", {}, b"WARC/1.0\r\nWARC-Type: resource\r\nContent-Length: 0\r\n\r\n\r\n", "content type"),
    ("pdf", {}, b"nonsense", "pdf"),
    ("text", {"encoding": "gb18030"}, b"\xff", "encoding"),
]


@pytest.mark.parametrize(("name", "options", "data", "kind"), FILES)
def test_reasons_of_pages_and_files_have_remedies(name, options, data, kind):
    (record,) = read_bytes(data, make_source(format=name, options=options), path="a")
    assert record.reason.partition(":")[0] == kind
    for other in (kind, "http", "html", "bz2", "xz", "zstd"):
        assert choose_remedy(other) != choose_remedy("unheard of")


def test_kinds_of_parts_dialogues_and_gzip_have_remedies():
    jsonl = {"format": "jsonl", "max_record_bytes": 90}
    (part,) = read_bytes(b"{}", make_source(parts={"query": "q"}, **jsonl))
    (turns,) = read_bytes(b"{}", make_source(messages="m", **jsonl))
    (*_, cut) = read_bytes(gzip.compress(b"{}")[:-1], make_source(messages="m", **jsonl), path="a.gz")
    kinds = [record.reason.partition(":")[0] for record in (part, turns, cut)]
    assert kinds == ["part query", "messages", "gzip"]
    for kind in (*kinds, "duplicate key", "label", "schema", "number", "nested value", "lone surrogate"):
        assert choose_remedy(kind) != choose_remedy("unheard of")


def make_config(folder, field, **knobs):
    source = f"{{name: s, path: {folder}/a.jsonl, format: jsonl, fields: {{text: {field}}}}}"
    settings = load(overrides=[*flow_overrides(folder), f"corpus.sources=[{source}]"])
    return settings.section("corpus", corpus.Config).model_copy(update=knobs)


@pytest.mark.slow
def test_wrong_mapping_fails_after_quarantine_until_corrected(spark, tmp_path):
    lines = [json.dumps({"body": f"第{number}行"}, ensure_ascii=False) for number in range(20)]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, "broken"]), encoding="utf-8")
    wrong, right = make_config(tmp_path, "text"), make_config(tmp_path, "body")
    for _ in range(2):  # a second run without a correction must not be "up to date"
        with pytest.raises(ValueError, match="21 of 21 records, 0 damaged") as caught:
            corpus.main(wrong)
        assert "20 x \"text: field 'text' is null or missing" in str(caught.value)
        assert QUARANTINE.read(spark, wrong.quarantine).count() == 21
        assert pin(wrong.documents) is None
        assert not corpus.plan(wrong).up_to_date
    assert corpus.main(right).facts["quarantined"] == "1"
    assert DOCUMENTS.read(spark, right.documents).count() == 20
    assert corpus.plan(right).up_to_date
    # A later mistake leaves the documents of the last good run.
    with pytest.raises(ValueError, match="documents were not written"):
        corpus.main(wrong)
    assert DOCUMENTS.read(spark, right.documents).count() == 20
    assert not corpus.plan(right).up_to_date
    accepting = make_config(tmp_path, "text", max_quarantined_fraction=1.0)
    assert corpus.main(accepting).facts["quarantined"] == "21"

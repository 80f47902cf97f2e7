"""Records to documents. Hashes come from hashlib, all other expected values are written by hand."""

import hashlib
import itertools
from collections import defaultdict

import pytest
from pyspark.sql import functions as F

from pipelines.corpus.build import build_documents, reconcile
from pipelines.corpus.dedup import label_exact_duplicates
from pipelines.corpus.listing import list_files
from pipelines.corpus.readers.files import RECORDS, read_source
from pipelines.corpus.rules import Rules
from pipelines.corpus.source import Source
from pipelines.delta import ContractError
from pipelines.tables import DOCUMENTS, QUARANTINE

COLUMNS = (
    "source", "file", "offset", "line", "key", "text", "label", "split", "parts", "metadata", "reason", "raw",
)  # fmt: skip
ZH = "我的银行卡还没有到，怎么办？"


def sha(*parts):
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]


def source(name="s", **knobs):
    return Source(
        **{"name": name, "path": "x", "format": "jsonl", "fields": {"text": "t", "key": "k"}, **knobs}
    )


def records(spark, *rows):
    """Rows of read_source; what is not given is null, position is the number of the row."""
    filled = [{"source": "s", "file": "f", "offset": n, "line": n + 1, **row} for n, row in enumerate(rows)]
    return spark.createDataFrame([tuple(row.get(column) for column in COLUMNS) for row in filled], RECORDS)


def test_document_has_ids_sizes_and_provenance(spark):
    rows = records(
        spark,
        {"text": ZH, "label": "到卡", "key": "7", "split": "test"},
        {"text": "a", "offset": 12, "file": "年/b.txt"},
    )
    documents, quarantine = build_documents(rows, [source()], Rules())
    chinese, english = sorted(documents.collect(), key=lambda row: row.offset)
    assert chinese.asDict() == {
        "doc_id": sha("s", "key", "7"),
        "source": "s",
        "text": ZH,
        "label": "到卡",
        "parts": None,
        "metadata": None,
        "content_hash": sha(ZH),
        "num_chars": 14,
        "num_bytes": 42,
        "duplicate_of": None,
        "drop_reason": None,
        "split": "test",
        "file": "f",
        "offset": 0,
    }
    assert english.doc_id == sha("s", "position", "12", "年/b.txt")
    assert quarantine.isEmpty()
    for rows_of, table in ((documents, DOCUMENTS), (quarantine, QUARANTINE)):
        assert [(c.name, c.dataType) for c in rows_of.schema] == [(c.name, c.dataType) for c in table.schema]


def test_content_hash_covers_names_and_order_of_parts(spark):
    dialogues = [
        None,
        [("user", "a"), ("assistant", "b")],
        [("assistant", "a"), ("user", "b")],
        [("user", "a\n\nb")],
        [("user", "a"), ("assistant", "b")],
        [],
    ]
    rows = records(
        spark, *[{"text": "a\n\nb", "key": str(n), "parts": parts} for n, parts in enumerate(dialogues)]
    )
    documents, _ = build_documents(rows, [source()], Rules())
    found = sorted(documents.collect(), key=lambda row: row.doc_id)
    by_key = {row.doc_id: row for row in found}
    in_order = [by_key[sha("s", "key", str(n))] for n in range(len(dialogues))]
    netstrings = [
        "\0" + "4:a\n\nb," + "".join(f"{len(value)}:{value}," for part in parts for value in part)
        for parts in dialogues[1:]
    ]
    assert [row.content_hash for row in in_order] == [sha("a\n\nb"), *map(sha, netstrings)]
    dropped = [row for row in in_order if row.drop_reason]
    assert len({row.content_hash for row in in_order}) == 5
    assert [(row.parts, row.drop_reason) for row in dropped] == [(dialogues[1], "exact_duplicate")]


def test_structured_documents_are_written_and_read_back(spark, tmp_path):
    rows = records(
        spark,
        {
            "text": "甲\n\n乙",
            "parts": [("user", "甲"), ("assistant", "乙")],
            "metadata": {"b": "2", "a": "一"},
        },
        {"text": "plain"},
    )
    documents, _ = build_documents(rows, [source()], Rules())
    pin = DOCUMENTS.overwrite(documents, str(tmp_path / "documents"), fingerprint="f", facts={})
    structured, plain = DOCUMENTS.read(spark, str(tmp_path / "documents")).orderBy("offset").collect()
    assert [tuple(part) for part in structured.parts] == [("user", "甲"), ("assistant", "乙")]
    assert structured.metadata == {"a": "一", "b": "2"}
    assert (plain.parts, plain.metadata) == (None, None)
    # The digest must not depend on the order of a map's entries.
    swapped = documents.withColumn("metadata", F.map_from_entries(F.reverse(F.map_entries("metadata"))))
    assert [list(row.metadata) for row in swapped.where("metadata IS NOT NULL").collect()] == [["a", "b"]]
    assert DOCUMENTS.digest(swapped)[0] == pin.digest


def test_drop_reason_is_the_first_rule_failed(spark):
    texts = ["", "你", "你好", "", "长长长", "长长长", "长长长"]
    rows = records(spark, *[{"text": text, "split": "train", "key": str(n)} for n, text in enumerate(texts)])
    documents, _ = build_documents(rows, [source()], Rules(min_chars=2))
    found = defaultdict(list)
    for row in documents.collect():
        found[row.text].append((row.drop_reason, row.duplicate_of))
    first = min(sha("s", "key", key) for key in "456")
    assert found[""] == [("empty", None)] * 2
    assert found["你"] == [("too_short", None)]
    assert found["你好"] == [(None, None)]
    assert sorted(found["长长长"], key=str) == [("exact_duplicate", first)] * 2 + [(None, None)]


def test_empty_text_is_dropped_even_with_min_chars_0(spark):
    rows = records(spark, {"text": "", "key": "1"}, {"text": "a", "key": "2"})
    documents, _ = build_documents(rows, [source()], Rules(min_chars=0))
    assert {row.text: row.drop_reason for row in documents.collect()} == {"": "empty", "a": None}


def test_surviving_copy_is_chosen_by_split_then_id(spark):
    splits = ("test", "validation", "train")
    grid = list(itertools.product(splits, splits))
    rows = [(f"{group}b", str(group), b, 1) for group, (b, _) in enumerate(grid)]
    rows += [(f"{group}a", str(group), a, 1) for group, (_, a) in enumerate(grid)]
    copies = spark.createDataFrame(rows, "doc_id STRING, content_hash STRING, split STRING, num_chars INT")
    found = {row.doc_id: row.duplicate_of for row in label_exact_duplicates(copies).collect()}
    # (split of b, split of a): who survives
    survivors = list("abbaabaaa")
    assert found == {
        f"{group}{member}": None if member == survivor else f"{group}{survivor}"
        for group, survivor in enumerate(survivors)
        for member in "ab"
    }


def test_test_set_stays_complete_and_train_loses_copies(spark):
    splits = ["test", "test", "train", "validation"]
    other = {"text": "same", "split": "train", "source": "t"}
    rows = records(spark, *[{"text": "same", "split": split} for split in splits], other)
    documents, _ = build_documents(rows, [source(), source("t")], Rules())
    assert sorted((row.split, row.drop_reason or "") for row in documents.collect()) == [
        ("test", ""),
        ("test", ""),
        ("train", "exact_duplicate"),
        ("train", "exact_duplicate"),
        ("validation", "exact_duplicate"),
    ]
    kept, _ = build_documents(rows, [source(), source("t")], Rules(drop_duplicates_from=()))
    assert kept.where("drop_reason IS NULL AND duplicate_of IS NOT NULL").count() == 4


def test_repeated_keys_are_quarantined_after_the_first(spark):
    rows = records(
        spark,
        {"key": "k", "text": "later", "file": "b"},
        {"key": "k", "text": "first", "file": "a", "offset": 9},
        {"key": "k", "text": "后来", "file": "a", "offset": 10},
        {"key": "k", "text": "other", "source": "t"},
        {"text": "no key"},
        {"text": "no key either"},
    )
    documents, quarantine = build_documents(rows, [source(), source("t")], Rules())
    assert sorted(row.text for row in documents.collect()) == ["first", "no key", "no key either", "other"]
    assert [
        (row.file, row.offset, row.reason, bytes(row.raw).decode())
        for row in quarantine.orderBy("file").collect()
    ] == [
        ("a", 10, "duplicate key: k; first in a at offset 9", "后来"),
        ("b", 0, "duplicate key: k; first in a at offset 9", "later"),
    ]


def test_documents_do_not_depend_on_partitions(spark):
    rows = records(
        spark, *[{"text": str(n % 70), "key": str(n % 90), "file": str(n % 7)} for n in range(100)]
    )
    shares = {"train": 0.5, "validation": 0.3, "test": 0.2}
    results = []
    for num_partitions in (1, 7, 50):
        documents, quarantine = build_documents(
            rows.repartition(num_partitions, F.rand(1)), [source(splits=shares)], Rules()
        )
        results.append((sorted(map(str, documents.collect())), sorted(map(str, quarantine.collect()))))
    assert results[0] == results[1] == results[2]
    assert [len(rows) for rows in results[0]] == [90, 10]
    assert sum("exact_duplicate" in row for row in results[0][0]) > 5


def test_each_record_is_a_document_or_quarantined(spark):
    good = [
        {"text": ZH, "key": "1", "split": "train"},
        {"text": ZH, "key": "2", "split": "test"},
        {"text": "", "key": "3"},
    ]
    bad = [{"reason": "invalid JSON: x", "raw": b"{"}, {"reason": "invalid JSON: y", "raw": b"}"}]
    rows = records(spark, *good, {"text": "a", "key": "1"}, *bad)
    documents, quarantine = build_documents(rows, [source()], Rules())
    assert reconcile(rows, documents, quarantine) == {
        "records": 6,
        "documents": 3,
        "quarantined": 3,
        "kept": {"test": 1},
        "dropped": {"empty": 1, "exact_duplicate": 1},
        "quarantine": {"duplicate key": 1, "invalid JSON": 2},
        "sources": {"s": {"records": 6, "quarantined": 3, "damaged": 0}},
    }
    with pytest.raises(ContractError, match="6 records became 2 documents and 3 rows"):
        reconcile(rows, documents.where("text != ''"), quarantine)


def test_sources_with_equal_names_are_refused(spark):
    with pytest.raises(ValueError, match="repeated: s; rename all but one"):
        build_documents(records(spark, {"text": "a"}), [source(), source()], Rules())


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"min_chars": -1}, "min_chars must be at least 0 code points, got -1"),
        (
            {"drop_duplicates_from": ("dev",)},
            "drop_duplicates_from must be among train, validation, test, got dev",
        ),
    ],
)
def test_invalid_rules_are_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        Rules(**knobs)


def test_chinese_text_survives_byte_for_byte(spark, tmp_path):
    text = "\n".join([ZH, "“全角引号”《书名》——……", "𠮷野家 𪚥 〇", "繁體中文與简体中文", "ＡＢＣ　１２３"])
    (tmp_path / "文.txt").write_bytes(text.encode())
    source = Source(name="zh", path=str(tmp_path / "文.txt"), format="text")
    documents, _ = build_documents(read_source(spark, source, list_files(source)), [source], Rules())
    (row,) = documents.collect()
    assert (row.text.encode(), row.file, row.content_hash) == (text.encode(), "文.txt", sha(text))

"""Records to documents. Hashes come from hashlib, all other expected values are written by hand."""

import hashlib
import itertools
import json
from collections import defaultdict
from contextlib import contextmanager
from tempfile import TemporaryDirectory

import pytest
from pyspark.errors import PythonException
from pyspark.sql import functions as F

from pipelines.corpus.build import open_corpus
from pipelines.corpus.counts import count_records
from pipelines.corpus.dedup import find_survivors, label_copies
from pipelines.corpus.manifest import list_sources
from pipelines.corpus.readers import slices
from pipelines.corpus.rules import Rules
from pipelines.corpus.source import Source
from pipelines.delta import ContractError
from pipelines.spark import shuffling
from pipelines.tables import DOCUMENTS, QUARANTINE
from tests.corpus.landed import make_message, write_file
from tests.corpus.landed import make_source as make_topic_source

ZH = "我的银行卡还没有到，怎么办？"


def sha(*parts):
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]


def source(folder, name="s", **knobs):
    """JSON Lines below folder/NAME; `write_records` writes them."""
    names = knobs.pop("mapped", ("text", "key", "split", "label"))
    knobs = {"fields": {field: field for field in names}, **knobs}
    return Source(**{"name": name, "path": f"{folder}/{name}", "format": "jsonl", **knobs})


def write_records(folder, *records):
    """Each record is a line of its source (default s) and file (default f); bytes are written as they are."""
    for number, record in enumerate(records):
        values = record if isinstance(record, dict) else {}
        place = folder / values.get("source", "s") / values.get("file", "f")
        place.parent.mkdir(parents=True, exist_ok=True)
        line = {"key": str(number), **values} if isinstance(record, dict) else record
        with place.open("ab") as file:
            data = line if isinstance(line, bytes) else json.dumps(line, ensure_ascii=False).encode()
            file.write(data + b"\n")


@contextmanager
def build(spark, sources, rules=None):
    """(documents held, rows of quarantine, the corpus) of the sources."""
    found = open_corpus(spark, sources, list_sources(sources), rules or Rules())
    with TemporaryDirectory() as table, found as corpus, corpus.hold_documents(table) as documents:
        yield documents.rows, corpus.quarantine(), corpus


def test_document_has_ids_sizes_and_provenance(spark, tmp_path):
    write_records(tmp_path, {"text": ZH, "label": "到卡", "key": "7", "split": "test"})
    write_records(
        tmp_path,
        {"source": "t", "file": "年/b.txt", "text": "first"},
        {"source": "t", "file": "年/b.txt", "text": "a"},
    )
    offset = len('{"key": "0", "source": "t", "file": "年/b.txt", "text": "first"}\n'.encode())
    sources = [source(tmp_path), source(tmp_path, "t", mapped=["text"])]
    with build(spark, sources) as (documents, quarantine, _):
        chinese, _, english = sorted(documents.collect(), key=lambda row: (row.source, row.offset))
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
        assert (english.text, english.doc_id) == ("a", sha("t", "position", str(offset), "年/b.txt"))
        assert quarantine.isEmpty()
        for rows_of, table in ((documents, DOCUMENTS), (quarantine, QUARANTINE)):
            assert [(c.name, c.dataType) for c in rows_of.schema] == [
                (c.name, c.dataType) for c in table.schema
            ]


def test_structured_documents_are_written_and_read_back(spark, tmp_path):
    turns = [{"role": "user", "content": "甲"}, {"role": "assistant", "content": "乙"}]
    write_records(tmp_path, {"m": turns, "b": "2", "a": "一"}, {"m": turns, "b": None}, {"m": turns[:1]})
    dialogues = source(tmp_path, fields={}, messages="m", metadata={"b": "b", "a": "a"})
    with build(spark, [dialogues]) as (documents, _, corpus):
        with corpus.hold_documents(str(tmp_path / "documents")) as held:
            pin = DOCUMENTS.overwrite(held, str(tmp_path / "documents"), fingerprint="f", facts={})
        first, copy, short = DOCUMENTS.read(spark, str(tmp_path / "documents")).orderBy("offset").collect()
        assert [tuple(part) for part in first.parts] == [("user", "甲"), ("assistant", "乙")]
        assert (first.text, first.metadata, copy.metadata) == ("甲\n\n乙", {"a": "一", "b": "2"}, None)
        assert {first.drop_reason, copy.drop_reason} == {None, "exact_duplicate"}
        assert short.drop_reason is None
        # The digest must not depend on the order of a map's entries.
        swapped = documents.withColumn("metadata", F.map_from_entries(F.reverse(F.map_entries("metadata"))))
        assert DOCUMENTS.digest(swapped)[0] == pin.digest


def test_drop_reason_is_the_first_rule_failed(spark, tmp_path):
    texts = ["", "你", "你好", "", "长长长", "长长长", "长长长"]
    write_records(tmp_path, *[{"text": text, "split": "train"} for text in texts])
    with build(spark, [source(tmp_path)], Rules(min_chars=2)) as (documents, _, _):
        found = defaultdict(list)
        for row in documents.collect():
            found[row.text].append((row.drop_reason, row.duplicate_of))
    first = min(sha("s", "key", key) for key in "456")
    assert found[""] == [("empty", None)] * 2
    assert found["你"] == [("too_short", None)]
    assert found["你好"] == [(None, None)]
    assert sorted(found["长长长"], key=str) == [("exact_duplicate", first)] * 2 + [(None, None)]


def test_empty_text_is_dropped_even_with_min_chars_0(spark, tmp_path):
    write_records(tmp_path, {"text": ""}, {"text": "a"})
    with build(spark, [source(tmp_path)], Rules(min_chars=0)) as (documents, _, _):
        assert {row.text: row.drop_reason for row in documents.collect()} == {"": "empty", "a": None}


def test_surviving_copy_is_chosen_by_split_then_id(spark):
    splits = ("test", "validation", "train")
    grid = list(itertools.product(splits, splits))
    rows = [(f"{group}b", str(group), b, 1) for group, (b, _) in enumerate(grid)]
    rows += [(f"{group}a", str(group), a, 1) for group, (_, a) in enumerate(grid)]
    copies = spark.createDataFrame(rows, "doc_id STRING, content_hash STRING, split STRING, num_chars INT")
    labelled = label_copies(copies, find_survivors(copies)).collect()
    found = {row.doc_id: None for row in copies.collect()} | {
        row.doc_id: row.duplicate_of for row in labelled
    }
    # (split of b, split of a): who survives
    survivors = list("abbaabaaa")
    assert found == {
        f"{group}{member}": None if member == survivor else f"{group}{survivor}"
        for group, survivor in enumerate(survivors)
        for member in "ab"
    }


def test_test_set_stays_complete_and_train_loses_copies(spark, tmp_path):
    splits = ["test", "test", "train", "validation"]
    write_records(tmp_path, *[{"text": "same", "split": split} for split in splits])
    write_records(tmp_path, {"text": "same", "split": "train", "source": "t"})
    sources = [source(tmp_path), source(tmp_path, "t")]
    with build(spark, sources) as (documents, _, corpus):
        assert sorted((row.split, row.drop_reason or "") for row in documents.collect()) == [
            ("test", ""),
            ("test", ""),
            ("train", "exact_duplicate"),
            ("train", "exact_duplicate"),
            ("validation", "exact_duplicate"),
        ]
        assert (corpus.facts["kept"], corpus.facts["dropped"]) == ({"test": 2}, {"exact_duplicate": 3})
    with build(spark, sources, Rules(drop_duplicates_from=())) as (kept, _, corpus):
        assert kept.where("drop_reason IS NULL AND duplicate_of IS NOT NULL").count() == 4
        assert corpus.facts["kept"] == {"test": 2, "train": 2, "validation": 1}


def test_repeated_keys_are_quarantined_after_the_first(spark, tmp_path):
    write_records(
        tmp_path,
        {"key": "k", "text": "later", "file": "b"},
        {"key": "other", "text": "x", "file": "a"},
        {"key": "k", "text": "first", "file": "a"},
        {"key": "k", "text": "后来", "file": "a"},
        {"key": "k", "text": "other", "source": "t"},
    )
    first = len('{"key": "other", "text": "x", "file": "a"}\n')
    later = first + len('{"key": "k", "text": "first", "file": "a"}\n')
    with build(spark, [source(tmp_path), source(tmp_path, "t")]) as (documents, quarantine, corpus):
        assert sorted(row.text for row in documents.collect()) == ["first", "other", "x"]
        reason = f"duplicate key: k; first in a at offset {first}"
        assert [
            (row.file, row.offset, row.line, row.reason, bytes(row.raw).decode())
            for row in quarantine.orderBy("file").collect()
        ] == [("a", later, 3, reason, "后来"), ("b", 0, 1, reason, "later")]
        assert corpus.facts["quarantine"] == {"duplicate key": 2}


def test_documents_do_not_depend_on_slices(spark, tmp_path, monkeypatch):
    write_records(
        tmp_path, *[{"text": str(n % 70), "key": str(n % 90), "file": str(n % 7)} for n in range(100)]
    )
    write_records(tmp_path, b"broken", {"text": "last", "key": "last", "file": "3"}, b"[]")
    shares = {"train": 0.5, "validation": 0.3, "test": 0.2}
    results = []
    for size in (10_000, 150):
        monkeypatch.setattr(slices, "choose_slice_bytes", lambda *_, size=size: size)
        monkeypatch.setattr("pipelines.corpus.build.choose_slice_bytes", lambda *_, size=size: size)
        monkeypatch.setattr(slices, "_FILE_BYTES", 1)
        with build(spark, [source(tmp_path, splits=shares)]) as (documents, quarantine, corpus):
            rows = (sorted(map(str, documents.collect())), sorted(map(str, quarantine.collect())))
            results.append((*rows, corpus.facts, corpus.checksum))
            num_slices = len(corpus.slices.task)
    assert results[0] == results[1]
    assert [len(rows) for rows in results[0][:2]] == [91, 12]
    assert sum("exact_duplicate" in row for row in results[0][0]) > 5
    assert num_slices > 25


def test_shuffles_have_the_partitions_of_the_bytes_and_the_session_its_own_again(
    spark, tmp_path, monkeypatch
):
    write_records(tmp_path, *[{"text": str(n % 7), "key": str(n)} for n in range(20)])
    monkeypatch.setattr(slices, "SHUFFLE_BYTES", 100)
    monkeypatch.setattr("pipelines.corpus.build.choose_slice_bytes", lambda *_: 150)
    monkeypatch.setattr(slices, "_FILE_BYTES", 1)  # several tasks: rows of one task need no shuffle
    name, files = "spark.sql.shuffle.partitions", list_sources([source(tmp_path)])
    expected, before = -(-files.num_bytes // 100), spark.conf.get(name)
    assert int(before) < expected  # the session alone would give fewer
    with open_corpus(spark, [source(tmp_path)], files, Rules()) as corpus:
        assert spark.conf.get(name) == str(expected)
        plan = corpus.copies.groupBy("doc_id").count()._jdf.queryExecution().executedPlan().toString()
        assert f", {expected})" in plan, plan
    assert spark.conf.get(name) == before
    with shuffling(spark, 1):
        assert spark.conf.get(name) == before


def test_each_record_is_a_document_or_quarantined(spark, tmp_path):
    write_records(
        tmp_path,
        {"text": ZH, "key": "1", "split": "train"},
        {"text": ZH, "key": "2", "split": "test"},
        {"text": "", "key": "3"},
        {"text": "a", "key": "1"},
        b"{",
        b"}",
    )
    with build(spark, [source(tmp_path)]) as (documents, quarantine, corpus):
        assert corpus.facts == {
            "records": 6,
            "documents": 3,
            "quarantined": 3,
            "kept": {"test": 1},
            "dropped": {"empty": 1, "exact_duplicate": 1},
            "quarantine": {"duplicate key": 1, "invalid JSON": 2},
            "sources": {
                "s": {"records": 6, "quarantined": 3, "damaged": 0}
                | {"kept": 1, "exact_duplicate": 1, "near_duplicate": 0}
            },
        }
        assert (documents.count(), quarantine.count()) == (3, 3)
        good = corpus.positions.where("doc_id IS NOT NULL")
        with pytest.raises(ContractError, match="4 good records became 3 documents and 0 repeated keys"):
            count_records(corpus.positions, good.where("num_chars > 0"), None, None, Rules())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda file: file.write_bytes(file.read_bytes().replace(b"one", b"two")),
            r"2 .*reading them again gave 2",
        ),
        (
            lambda file: file.write_bytes(file.read_bytes() + b'{"text": "three"}\n'),
            "reading them again gave 3",
        ),
    ],
)
def test_file_changed_between_readings_stops_the_stage(spark, tmp_path, change, message):
    write_records(tmp_path, {"text": "one"}, {"text": "more"})
    sources = [source(tmp_path, mapped=["text"])]
    with open_corpus(spark, sources, list_sources(sources), Rules()) as corpus:
        change(tmp_path / "s" / "f")
        with pytest.raises(ContractError, match=message), corpus.hold_documents(str(tmp_path / "documents")):
            pass


def test_label_without_its_record_stops_the_stage(spark, tmp_path):
    write_records(tmp_path, {"text": "same"}, {"text": "same"}, {"text": "other"})
    sources = [source(tmp_path, mapped=["text"])]
    with open_corpus(spark, sources, list_sources(sources), Rules()) as corpus:
        (tmp_path / "s" / "f").write_bytes(b'{"text": "gone"}')
        with (
            pytest.raises((PythonException, ContractError), match=r"is no record at|reading them again"),
            corpus.hold_documents(str(tmp_path / "documents")),
        ):
            pass


def test_sources_with_equal_names_are_refused(spark, tmp_path):
    write_records(tmp_path, {"text": "a"})
    sources = [source(tmp_path), source(tmp_path)]
    with pytest.raises(ValueError, match="repeated: s; rename all but one"), build(spark, sources):
        pass


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
    with build(spark, [source]) as (documents, _, _):
        (row,) = documents.collect()
    assert (row.text.encode(), row.file, row.content_hash) == (text.encode(), "文.txt", sha(text))


def test_damaged_files_of_a_topic_are_counted_one_by_one(spark, tmp_path):
    """They have one name in documents: that of the partition."""
    files = [write_file(tmp_path, 0, [make_message(first)], first + 1) for first in range(3)]
    for damaged in files[:2]:
        damaged.write_bytes(damaged.read_bytes()[:-9])
    with build(spark, [make_topic_source(tmp_path, options={"land": False})]) as (_, quarantined, corpus):
        counts = corpus.facts["sources"]["s"]
        assert [counts[name] for name in ("records", "quarantined", "damaged")] == [3, 2, 2]
        assert [(row.file, row.offset) for row in quarantined.collect()] == [("chats/0", 0), ("chats/0", 1)]

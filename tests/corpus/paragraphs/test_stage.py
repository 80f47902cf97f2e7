"""Removed paragraphs in the stage, against a twin that compares all documents with all."""

import json
from collections import Counter
from hashlib import sha256

import pytest

from pipelines.contract import ChangedMeanwhileError
from pipelines.corpus.ids import content_hash
from pipelines.corpus.paragraphs import find
from pipelines.corpus.paragraphs.pieces import split_text
from pipelines.corpus.paragraphs.select import Sighting, find_copied
from pipelines.corpus.paragraphs.settings import Paragraphs
from pipelines.corpus.readers import slices
from pipelines.corpus.source import Source
from pipelines.corpus.split import find_split, label_splits
from pipelines.tables import REMOVED_PARAGRAPHS
from tests.corpus.paragraphs.corpora import (
    SHARES,
    build,
    cut_words,
    expect,
    list_documents,
    make_records,
    write_sources,
)

SIZES = (2**20, range(1, 3)), (2_000, range(5, 12)), (400, range(15, 75))
"""Bytes of a slice, and how many tasks they make."""


def cut_small(monkeypatch, size):
    """Slices of `size` bytes, so that each task has a few records."""
    monkeypatch.setattr("pipelines.corpus.build.choose_slice_bytes", lambda *_: size)
    monkeypatch.setattr(slices, "_FILE_BYTES", 1)


def count_blocks(corpus):
    """Copied paragraphs of each block that has some."""
    rows = corpus.slices.edits.rows.where("paragraph IS NOT NULL")
    return [row["count"] for row in rows.groupBy("task", "slice", "offset").count().collect()]


def describe(rows, unit):
    return [(row.split, cut_words(row.text, unit)) for row in rows]


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        (Paragraphs(enabled=True), SIZES[:2]),
        pytest.param(Paragraphs(enabled=True), SIZES, marks=pytest.mark.soak),
        (Paragraphs(enabled=True, unit="paragraph", max_documents=2), SIZES[1:2]),
        (Paragraphs(enabled=True, survivor="none", max_documents=3, drop_from=("train",)), SIZES[1:2]),
    ],
)
def test_documents_are_those_of_the_twin_for_any_slices(spark, tmp_path, monkeypatch, settings, sizes):
    records = make_records(5)
    sources, expected = write_sources(tmp_path, records), expect(records, settings)
    digests = set()
    for size, num_tasks in sizes:
        cut_small(monkeypatch, size)
        monkeypatch.setattr(find, "MAX_NOTED", 250_000 if size == 400 else 3)
        with build(spark, sources, settings) as (rows, corpus):
            assert describe(rows, settings.unit) == expected
            digests.add(tuple((row.doc_id, row.text, row.content_hash, row.drop_reason) for row in rows))
            assert all(row.content_hash == content_hash(row.text.encode(), None) for row in rows)
            assert all(row.num_chars == len(row.text) for row in rows)
            assert len({task for task in corpus.slices.task if task >= 0}) in num_tasks
            assert corpus.facts["quarantine"] == {"duplicate key": 6, "invalid JSON": 1}
            blocks = count_blocks(corpus)
            assert len(blocks) >= 10  # at the first size, nearly all of one task
            # The text that reaches 3 pairs ends its block, and has 7 paragraphs at most.
            assert size == 400 or max(blocks) <= 3 + 7
    assert len(digests) == 1
    changed = [row for row, one in zip(rows, list_documents(records), strict=True) if row.text != one.text]
    assert len(changed) >= 10
    assert any("银行" in one.text for one in list_documents(records))
    # By the hash of what is left, these would be in another split.
    assert any(find_split(row.content_hash, SHARES) != row.split for row in changed)


def test_what_was_removed_is_named_and_every_character_is_counted(spark, tmp_path):
    records, settings = make_records(7), Paragraphs(enabled=True)
    sources, whole = write_sources(tmp_path, records), list_documents(records)
    with build(spark, sources, settings) as (rows, corpus):
        removed = corpus.removed_paragraphs()
        assert removed.schema.names == REMOVED_PARAGRAPHS.schema.names
        found = {row.doc_id: [] for row in rows}
        for row in removed.orderBy("doc_id", "paragraph").collect():
            found[row.doc_id].append(row)
        facts = corpus.facts["paragraphs"]
    lost, sums = Counter(), {source.name: Counter() for source in sources}
    for row, before in zip(rows, whole, strict=True):
        pieces = split_text(before.text, "line")
        for one in found[row.doc_id]:
            assert (one.source, one.file, one.offset) == (row.source, row.file, row.offset)
            start, end = pieces[one.paragraph]
            assert (one.start, one.num_chars) == (start, end - start)
            form = " ".join(before.text[start:end].split()).encode()
            assert one.hash == sha256(form).hexdigest()[:32]
        gone = {one.paragraph for one in found[row.doc_id]}
        left = [before.text[slice(*piece)] for number, piece in enumerate(pieces) if number not in gone]
        kept = [line.split() for line in row.text.split("\n") if line.strip()]
        assert kept == [line.split() for line in left]
        lost[row.source] += len(gone)
        sums[row.source].update(
            documents=bool(gone),
            paragraphs=len(gone),
            read_chars=len(before.text),
            removed_chars=sum(one.num_chars for one in found[row.doc_id]),
            kept_chars=len(row.text),
        )
    assert min(lost.values()) > 10
    for source, counts in facts.items():
        white_space = counts.pop("white_space")
        assert counts == sums[source]
        assert counts["read_chars"] == counts["removed_chars"] + white_space + counts["kept_chars"]
        assert white_space > 0


def test_a_text_that_loses_everything_is_empty(spark, tmp_path):
    line = "The same long line stands in many of the documents."
    source = write_lines(tmp_path, [f"{line}\none", line, f"two\n{line}"])
    with build(spark, [source], Paragraphs(enabled=True)) as (rows, corpus):
        assert [(row.text, row.drop_reason) for row in rows] == [
            (f"{line}\none", None),
            ("", "empty"),
            ("two", None),
        ]
        assert corpus.facts["dropped"] == {"empty": 1}


def test_rules_and_copies_see_the_edited_texts(spark, tmp_path):
    line = "The same long line stands in many of the documents."
    texts = [f"first of all documents\n{line}", f"one text twice\n{line}", "one text twice", "one text twice"]
    source = write_lines(tmp_path, texts)
    with build(spark, [source], Paragraphs(enabled=True)) as (rows, _):
        assert [row.text for row in rows] == [texts[0], *["one text twice"] * 3]
        assert sorted(row.drop_reason or "kept" for row in rows) == [*["exact_duplicate"] * 2, *["kept"] * 2]


def test_dialogues_stay_whole(spark, tmp_path):
    line = "The same long line stands in many of the documents."
    turns = [{"role": "user", "content": line}, {"role": "assistant", "content": "yes"}]
    (tmp_path / "chats").mkdir()
    (tmp_path / "chats" / "a").write_text(json.dumps({"m": turns, "t": ""}) + "\n")
    chats = Source(name="chats", path=f"{tmp_path}/chats", format="jsonl", messages="m")
    pages = write_lines(tmp_path, [f"one\n{line}", f"two\n{line}"])
    with build(spark, [chats, pages], Paragraphs(enabled=True)) as (rows, corpus):
        assert [row.text for row in rows] == [f"{line}\n\nyes", f"one\n{line}", "two"]
        assert list(corpus.facts["paragraphs"]) == ["pages"]
    with build(spark, [chats], Paragraphs(enabled=True)) as (rows, corpus):
        assert [row.text for row in rows] == [f"{line}\n\nyes"]


def test_a_file_that_changed_after_paragraphs_were_compared_stops_the_stage(spark, tmp_path, monkeypatch):
    source = write_lines(tmp_path, ["one", "two"])
    count = find.list_copied

    def change(*args):
        with (tmp_path / "pages" / "a").open("a") as file:
            file.write(json.dumps({"t": "three"}) + "\n")
        return count(*args)

    monkeypatch.setattr(find, "list_copied", change)
    message = r"source 'pages' had 6 characters when its paragraphs were compared, but 11"
    with (
        pytest.raises(ChangedMeanwhileError, match=message),
        build(spark, [source], Paragraphs(enabled=True)),
    ):
        pass


def test_the_query_finds_what_the_pure_function_finds(spark):
    # Paragraph number n is in n + 1 texts.
    sightings = [
        Sighting(b"p%d" % (number % 7), number * 37 % 101, b"c%d" % (number // 7 % (number % 7 + 1)))
        for number in range(200)
    ]
    blocks = [(number % 3, number % 5, number % 2 * 2**40) for number in range(len(sightings))]
    rows = [(*block, *each, None, None, None) for block, each in zip(blocks, sightings, strict=True)]
    for max_documents, num_copied in ((1, 6), (3, 4), (6, 1)):
        copied = find.list_copied(spark.createDataFrame(rows, find._SEEN), max_documents).collect()
        expected = find_copied(sightings, max_documents)
        assert {bytes(row.paragraph): bytes(row.content) for row in copied} == expected
        places = {row[:4] for row in rows if row[3] in expected}
        found = [(row.task, row.slice, row.offset, bytes(row.paragraph)) for row in copied]
        assert sorted(found) == sorted(places)
        assert len(expected) == num_copied


def test_splits_of_readers_are_those_of_spark(spark):
    hashes = [(content_hash(str(number).encode(), None),) for number in range(2_000)]
    rows = spark.createDataFrame(hashes, "content_hash STRING").selectExpr(
        "content_hash", "'pages' AS source", "CAST(NULL AS STRING) AS split"
    )
    for shares in (SHARES, {"train": 1.0}, {"test": 0.3, "train": 0.7, "validation": 0.0}):
        source = Source(name="pages", path="x", format="jsonl", fields={"text": "t"}, splits=shares)
        found = label_splits(rows, [source]).collect()
        assert [row.split for row in found] == [find_split(row.content_hash, shares) for row in found]


def write_lines(folder, texts):
    """Documents of train, one per text."""
    (folder / "pages").mkdir()
    (folder / "pages" / "a").write_text("".join(json.dumps({"t": text}) + "\n" for text in texts))
    return Source(name="pages", path=f"{folder}/pages", format="jsonl", fields={"text": "t"})

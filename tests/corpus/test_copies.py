"""Copies of few documents are found on the driver, those of many by Spark: the rows are the same."""

import random

import pyarrow as pa
import pytest

from pipelines.corpus.dedup import find_few_survivors, find_survivors, label_copies, label_few_copies

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("doc_id", "source", "split", "content_hash")]
    + [("num_chars", pa.int32())]
)


def draw_documents(seed):
    draw = random.Random(seed)
    rows = []
    for number in draw.sample(range(100), 60):
        content = draw.randrange(25)
        split = draw.choice(["train", "train", "validation", "test"])
        source = draw.choice(["a", "b", "old"])
        # Content 0 is the empty text, which is a copy of nothing.
        rows.append((f"d{number:02}", source, split, f"c{content:02}", content))
    return pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], SCHEMA)


def as_set(rows):
    return {tuple(sorted(row.items(), key=str)) for row in rows.to_pylist()}


@pytest.mark.parametrize("protected", [(), ("old",)])
def test_driver_and_executors_find_the_same_copies(spark, protected):
    documents = draw_documents(3)
    documents = pa.concat_tables([documents.slice(0, 20), documents.slice(20)])
    rows = spark.createDataFrame(documents)
    survivors, few = find_survivors(rows, protected), find_few_survivors(documents, protected)
    assert as_set(few) == as_set(survivors.toArrow())
    copies = label_few_copies(documents, few)
    assert as_set(copies) == as_set(label_copies(rows, survivors).toArrow())
    by_content = {}
    order = {"test": 0, "validation": 1, "train": 2}
    for row in documents.to_pylist():
        # Among protected copies, the split does not matter.
        place = (-1 if row["source"] in protected else order[row["split"]], row["doc_id"])
        by_content.setdefault(row["content_hash"], []).append(place)
    expected = {
        content: min(places)[1]
        for content, places in by_content.items()
        if len(places) > 1 and content != "c00"
    }
    assert {row["content_hash"]: row["survivor_id"] for row in few.to_pylist()} == expected
    assert len(copies) == sum(len(by_content[content]) - 1 for content in expected) > 20


def test_documents_without_copies_have_no_survivors():
    documents = draw_documents(3).slice(0, 1)
    assert find_few_survivors(documents).num_rows == 0
    assert find_few_survivors(documents.slice(1)).num_rows == 0

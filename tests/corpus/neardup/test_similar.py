"""Similarities: the driver and executors give the same ones; Python's sets are the twin."""

import random

import pyarrow as pa
import pytest

from pipelines.corpus.neardup import similar
from pipelines.corpus.neardup.similar import can_compare, compare_held, compare_sets
from pipelines.tables import SIMILARITIES
from tests.corpus.neardup.corpora import make_search, make_source, search_corpus, window, write_texts


def test_sets_are_compared_alike_on_driver_and_executors(spark):
    draw = random.Random(8)
    sets = {f"t{n:02}": draw.sample(range(-20, 20), draw.randrange(1, 30)) for n in range(12)}
    pairs = [(one, other) for one in sets for other in sets if one < other]
    # A text that changed while it was read has another content: its pairs are left out.
    pairs += [("t00", "x"), ("a", "t03"), ("a", "x")]
    schema = pa.schema([("content_hash", pa.string()), ("shingles", pa.list_(pa.int64()))])
    rows = pa.Table.from_pylist([{"content_hash": k, "shingles": v} for k, v in sets.items()], schema)
    rows = pa.concat_tables([rows.slice(0, 5), rows.slice(5)])
    asked = pa.table({"first": [pair[0] for pair in pairs], "second": [pair[1] for pair in pairs]})
    expected = {
        (one, other): len({*sets[one]} & {*sets[other]}) / len({*sets[one]} | {*sets[other]})
        for one, other in pairs
        if one in sets and other in sets
    }
    found = [
        compare_held(asked, rows).to_pylist(),
        compare_sets(spark.createDataFrame(asked), spark.createDataFrame(rows)).toArrow().to_pylist(),
    ]
    for each in found:
        assert {(row["first"], row["second"]): row["jaccard"] for row in each} == expected
    assert compare_held(asked.slice(len(asked) - 1), rows).num_rows == 0


def test_the_driver_compares_up_to_a_number_of_characters_in_texts_and_in_pairs(monkeypatch):
    """Texts a, b and c have 4, 5 and 6 characters; the pairs have 4 + 5 and 4 + 6."""
    chunks = [["c", "a"], ["b"]]
    texts = pa.table({"content_hash": pa.chunked_array(chunks), "num_chars": pa.array([6, 4, 5], pa.int32())})
    pairs = pa.table({"first": pa.chunked_array([["a"], ["a"]]), "second": ["b", "c"]})
    for most, most_paired, expected in ((15, 19, True), (14, 19, False), (15, 18, False)):
        monkeypatch.setattr(similar, "MOST_CHARS", most)
        monkeypatch.setattr(similar, "MOST_PAIRED_CHARS", most_paired)
        assert can_compare(pairs, texts) == expected
    long = texts.set_column(1, "num_chars", pa.array([2**31 - 1] * 3, pa.int32()))
    assert not can_compare(pairs, long)


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["MOST_CHARS", "MOST_PAIRED_CHARS"])
def test_long_texts_are_compared_by_executors(spark, tmp_path, monkeypatch, limit):
    write_texts(tmp_path, {str(n): window(n) for n in range(4)})
    found, called = [], []

    def note(name):
        compare = getattr(similar, name)

        def compare_and_note(*rows):
            called.append(name)
            return compare(*rows)

        monkeypatch.setattr(similar, name, compare_and_note)

    for name in ("compare_held", "compare_sets"):
        note(name)
    for most in (getattr(similar, limit), 500):
        monkeypatch.setattr(similar, limit, most)
        search = make_search(tmp_path / str(most))
        with search_corpus(spark, [make_source(tmp_path)], search) as (_, evidence, _):
            tables = [SIMILARITIES.read(spark, search.similarities).collect(), evidence.values()]
        found.append([sorted(map(str, rows)) for rows in tables])
    assert found[0] == found[1]
    assert [len(rows) for rows in found[0]] == [6, 4]
    assert called == ["compare_held", "compare_sets"]

"""Paragraphs of several editions of four books. The twin compared all paragraphs with all others."""

import csv
import gzip
import json
from collections import defaultdict
from pathlib import Path

import pytest

from pipelines.corpus.source import Source
from pipelines.tables import SIMILARITIES
from tests.corpus.neardup.corpora import doc_id, make_search, search_corpus
from tests.corpus.neardup.test_minhash import exact_jaccard, find_tuples

DATA = Path(__file__).parents[3] / "data" / "neardup_gutenberg"


@pytest.fixture(scope="module")
def paragraphs():
    with gzip.open(DATA / "docs.jsonl.gz", "rt", encoding="utf-8") as lines:
        return {row["doc_id"]: row for row in map(json.loads, lines)}


@pytest.fixture(scope="module")
def pairs():
    with gzip.open(DATA / "pairs.csv.gz", "rt", newline="") as lines:
        return {(row["doc_a"], row["doc_b"]): float(row["jaccard_3gram"]) for row in csv.DictReader(lines)}


@pytest.fixture(scope="module")
def found(spark, tmp_path_factory):
    """content hash and survivor of the exact copies by doc_id, evidence by doc_id, similarities."""
    folder = tmp_path_factory.mktemp("gutenberg")
    fields = {"text": "text", "key": "doc_id"}
    source = Source(name="s", path=str(DATA / "docs.jsonl.gz"), format="jsonl", fields=fields)
    search = make_search(folder)
    with search_corpus(spark, [source], search) as (documents, evidence, _):
        rows = {row.doc_id: row for row in documents.rows.drop("text").collect()}
    similar = {
        (row.first, row.second): row.jaccard
        for row in SIMILARITIES.read(spark, search.similarities).collect()
    }
    return rows, evidence, similar


def test_recall_of_pairs_of_editions_is_99_percent(pairs, found):
    rows, _, similar = found
    near = [pair for pair, jaccard in pairs.items() if jaccard >= 0.8]
    hits = 0
    for pair in near:
        first, second = sorted(rows[doc_id(key)].content_hash for key in pair)
        hits += first == second or similar.get((first, second), 0) >= 0.7999
    assert len(near) == 3_374
    assert hits / len(near) >= 0.99


def test_stored_similarities_equal_those_of_the_twin(paragraphs, found):
    rows, _, similar = found
    texts = {rows[doc_id(key)].content_hash: row["text"] for key, row in paragraphs.items()}
    expected = {
        pair: exact_jaccard(*(set(find_tuples(texts[content], 3)) for content in pair)) for pair in similar
    }
    assert similar == expected
    assert len(similar) > 500


def test_every_removed_paragraph_is_like_its_survivor(paragraphs, found):
    rows, evidence, _ = found
    keys = {doc_id(key): key for key in paragraphs}
    removed = [row for row in evidence.values() if row.duplicate_of]
    for row in removed:
        sets = [
            set(find_tuples(paragraphs[keys[name]]["text"], 3)) for name in (row.doc_id, row.duplicate_of)
        ]
        assert exact_jaccard(*sets) == row.jaccard >= 0.8
        assert (rows[row.doc_id].drop_reason, rows[row.duplicate_of].drop_reason) == ("near_duplicate", None)
    assert len(removed) > 300


def test_clusters_equal_those_of_the_twin(paragraphs, found):
    rows, evidence, _ = found
    ours, theirs = defaultdict(set), defaultdict(set)
    for key, row in paragraphs.items():
        document = rows[doc_id(key)]
        # An exact copy belongs where the copy that was kept belongs.
        member = document.duplicate_of if document.drop_reason == "exact_duplicate" else document.doc_id
        ours[evidence[member].cluster_id if member in evidence else member].add(key)
        theirs[row["cluster_j08"]].add(key)
    assert sorted(map(sorted, ours.values())) == sorted(map(sorted, theirs.values()))
    assert len(ours) == 977

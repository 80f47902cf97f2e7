"""Near duplicates in a corpus. Expected similarities come from a formula or from sets of tuples."""

import itertools
import random
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest

from pipelines.delta import ContractError
from pipelines.tables import DOCUMENTS, NEAR_DUPLICATES, SIGNATURES, SIMILARITIES
from tests.corpus.neardup.corpora import (
    doc_id,
    find_reasons,
    make_search,
    make_source,
    search_corpus,
    shifted_jaccard,
    window,
    write_texts,
)
from tests.corpus.neardup.test_minhash import exact_jaccard, find_tuples

NEAR = "near_duplicate"


def random_corpus(seed, num_texts=120):
    """Texts of 60 to 90 words, each followed by up to four edited copies."""
    draw, texts = random.Random(seed), {}
    while len(texts) < num_texts:
        words = [f"t{draw.randrange(5_000)}" for _ in range(draw.randrange(60, 90))]
        for _ in range(draw.choice([1, 1, 2, 3, 5])):
            texts[f"k{len(texts)}"] = " ".join(words)
            for _ in range(draw.randrange(1, 5)):
                words[draw.randrange(len(words))] = f"e{draw.randrange(5_000)}"
    return texts


@pytest.fixture(scope="module")
def medley(spark, tmp_path_factory):
    """Groups that have nothing in common, searched once at J >= 0.8846, a value between 91/105 and 92/104.

    (label of each document by source and key, evidence by doc_id, facts, search)
    """
    folder = tmp_path_factory.mktemp("medley")
    write_texts(folder, {name: window(5 * n, length=9 - n) for n, name in enumerate("abcd")})
    write_texts(folder, {"in": window(1006), "to": window(1000, length=1)})
    write_texts(folder, {"out": window(2007), "off": window(2000, length=1)})
    splits = {"t1": "test", "t2": "test", "v": "validation", "r": "train"}
    for number, (name, split) in enumerate(splits.items()):
        write_texts(folder, {name: window(3000, length=number)}, split=split)
    write_texts(folder, {"e": "", "one": "w1 w2", "two": "w1 w2!"})
    write_texts(folder, {"zh": "我的银行卡还没有到，怎么办？", "zh2": "我的银行卡还没有到。怎么办"})
    write_texts(folder, {"p": window(4000), "q": window(4001), "same": window(5000)}, source="old")
    write_texts(folder, {"long": window(4000, length=9), "copy": window(5000)}, source="new")
    sources = [make_source(folder, name) for name in ("s", "new", "old")]
    search = make_search(folder / "tables", min_jaccard=0.8846, protected_sources=("old",))
    with search_corpus(spark, sources, search) as (documents, evidence, corpus):
        rows = documents.rows.select("doc_id", "drop_reason", "duplicate_of").collect()
        labels = {row.doc_id: (row.drop_reason, row.duplicate_of) for row in rows}
        assert DOCUMENTS.digest(documents.rows)[0] == documents.digest
        facts = corpus.facts
    return SimpleNamespace(labels=labels, evidence=evidence, facts=facts, search=search)


def test_evidence_names_survivor_similarity_and_buckets(medley):
    survivor, removed = (medley.evidence[doc_id(key)] for key in ("to", "in"))
    assert removed.asDict() == {
        "doc_id": doc_id("in"),
        "source": "s",
        "split": "train",
        "cluster_id": doc_id("to"),
        "cluster_size": 2,
        "duplicate_of": doc_id("to"),
        "jaccard": 92 / 104,
        "num_buckets": removed.num_buckets,
    }
    # Each of the 20 buckets is shared with probability 0.885 ** 5 = 0.54.
    assert 4 <= removed.num_buckets <= 20
    assert (survivor.duplicate_of, survivor.jaccard, survivor.cluster_size) == (None, None, 2)


def test_pair_at_the_threshold_is_removed_and_below_it_not(medley):
    assert shifted_jaccard(6) == 92 / 104 >= 0.8846 > 91 / 105 == shifted_jaccard(7)
    found = [medley.labels[doc_id(key)] for key in ("to", "in", "off", "out")]
    assert found == [(None, None), (NEAR, doc_id("to")), (None, None), (None, None)]
    assert doc_id("out") not in medley.evidence


def test_chain_does_not_remove_what_is_unlike_the_survivor(medley):
    """a-b-c-d in steps of 5 words: only neighbours are alike, and a survives first because it is longest."""
    assert shifted_jaccard(5) > 0.8846 > shifted_jaccard(10)
    chain = {name: medley.evidence[doc_id(name)] for name in "abcd"}
    assert {name: row.duplicate_of for name, row in chain.items()} == {
        "a": None,
        "b": doc_id("a"),
        "c": None,
        "d": doc_id("c"),
    }
    assert {(row.cluster_id, row.cluster_size) for row in chain.values()} == {(doc_id("a"), 4)}


def test_test_split_stays_whole_and_train_loses_its_near_copies(medley):
    best = doc_id("t2")  # the longer one of test, although train has a longer text
    found = [medley.labels[doc_id(name)] for name in ("t1", "t2", "v", "r")]
    assert found == [(None, None), (None, None), (NEAR, best), (NEAR, best)]


def test_protected_source_loses_nothing_to_longer_texts(medley):
    assert [medley.labels[doc_id(key, "old")] for key in ("p", "q", "same")] == [(None, None)] * 3
    # p and q are equally long: the smaller id is named.
    assert medley.labels[doc_id("long", "new")] == (NEAR, min(doc_id("p", "old"), doc_id("q", "old")))
    # "same" and its copy: the exact rule obeys the protection too.
    assert medley.labels[doc_id("copy", "new")] == ("exact_duplicate", doc_id("same", "old"))


def test_short_texts_are_kept_and_chinese_is_compared_by_character(spark, medley):
    keys = ("e", "one", "two", "zh", "zh2")
    reasons = [medley.labels[doc_id(key)][0] for key in keys]
    assert reasons == ["empty", None, None, None, NEAR]
    counts = {row.num_shingles for row in SIGNATURES.read(spark, medley.search.signatures).collect()}
    assert counts == {0, 10, 98}  # 12 characters of Chinese are 10 shingles, 100 words are 98


def test_counts_before_reading_equal_the_labels(medley):
    counted = Counter(reason for reason, _ in medley.labels.values() if reason)
    assert medley.facts["dropped"] == dict(counted) == {"empty": 1, "exact_duplicate": 1, NEAR: 7}
    near = medley.facts["near_duplicates"]
    labels = ("kept", "exact_duplicate", "near_duplicate")
    found = {name: [counts[label] for label in labels] for name, counts in medley.facts["sources"].items()}
    assert found == {"new": [0, 1, 1], "old": [3, 0, 0], "s": [10, 0, 6]}
    assert (near["signed"], near["clusters"]) == (20, 5)


@pytest.mark.slow
def test_large_bucket_costs_pairs_in_proportion(spark, tmp_path):
    texts = {f"k{n}": window(0, 300).replace(f"w{n:04} ", "x ") + "!" * (100 - n) for n in range(60)}
    write_texts(tmp_path, texts)
    search = make_search(tmp_path / "t", max_leaders=3)
    with search_corpus(spark, [make_source(tmp_path)], search) as (_, evidence, corpus):
        facts = corpus.facts["near_duplicates"]
    # All pairs would be 1,770. The longest is in the large buckets' first three.
    assert facts["pairs"] < 60 * 20
    assert facts["crowded_buckets"] >= 1
    assert sum(row.duplicate_of == doc_id("k0") for row in evidence.values()) >= 55
    assert {row.cluster_size for row in evidence.values()} == {60}


def collect_results(spark, sources, search):
    """Everything that a user sees, sorted."""
    with search_corpus(spark, sources, search) as (documents, evidence, corpus):
        facts = {
            k: v for k, v in corpus.facts["near_duplicates"].items() if k not in ("signed", "pairs_compared")
        }
        return sorted(map(str, evidence.values())), documents.digest, facts


# Partitions, and how many buckets, pairs and edges the driver holds.
# The driver finds the pairs; its pairs are too many; nothing.
PLACES = [("2", 10**6, 10**6, 10**6), ("1", 10**6, 0, 20), ("7", 0, 20, 20)]
# Survivors only; survivors again.
MORE_PLACES = [("2", 0, 10**6, 10**6), ("40", 20, 0, 10**6)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "places",
    [PLACES, pytest.param([*PLACES[:1], *MORE_PLACES], marks=pytest.mark.soak)],
    ids=["usual", "more"],
)
def test_result_does_not_depend_on_partitions_or_driver(spark, tmp_path, places):
    write_texts(tmp_path, random_corpus(1))
    sources = [make_source(tmp_path)]
    usual = spark.conf.get("spark.sql.shuffle.partitions")
    results = []
    try:
        for number, (partitions, buckets, pairs, edges) in enumerate(places):
            spark.conf.set("spark.sql.shuffle.partitions", partitions)
            limits = {"driver_buckets": buckets, "driver_pairs": pairs, "driver_edges": edges}
            search = make_search(tmp_path / f"tables{number}", **limits)
            results.append(collect_results(spark, sources, search))
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", usual)
    assert all(result == results[0] for result in results)
    assert len(results[0][0]) > 50


@pytest.mark.slow
@pytest.mark.parametrize("num_increments", [3, pytest.param(5, marks=pytest.mark.soak)])
def test_increments_equal_one_run(spark, tmp_path, num_increments):
    texts = list(random_corpus(2, 150).items())[:150]
    random.Random(3).shuffle(texts)
    search, signed, compared = make_search(tmp_path / "grown"), [], []
    num_new = 150 // num_increments
    for start in range(0, 150, num_new):
        write_texts(tmp_path, dict(texts[start : start + num_new]), file=f"part{start}")
        with search_corpus(spark, [make_source(tmp_path)], search) as (_, _, corpus):
            signed.append(corpus.facts["near_duplicates"]["signed"])
            compared.append(corpus.facts["near_duplicates"]["pairs_compared"])
    grown = collect_results(spark, [make_source(tmp_path)], search)
    whole = collect_results(spark, [make_source(tmp_path)], make_search(tmp_path / "whole"))
    assert grown == whole
    num_texts = len({text for _, text in texts})
    assert sum(signed) == num_texts > 140
    assert max(signed) <= num_new
    assert sum(compared) == SIMILARITIES.read(spark, f"{tmp_path}/whole/similarities").count() > 100
    for name in ("signatures", "similarities"):
        tables = [
            sorted(map(str, spark.read.format("delta").load(f"{tmp_path}/{kind}/{name}").collect()))
            for kind in ("grown", "whole")
        ]
        assert tables[0] == tables[1]


@pytest.mark.slow
def test_second_run_computes_nothing_again(spark, tmp_path):
    write_texts(tmp_path, random_corpus(4, 40))
    search, facts = make_search(tmp_path / "t"), []
    for _ in range(2):
        with search_corpus(spark, [make_source(tmp_path)], search) as (_, _, corpus):
            facts.append(corpus.facts["near_duplicates"])
    assert facts[0]["signed"] == 40
    assert facts[0]["pairs_compared"] > 5
    assert (facts[1]["signed"], facts[1]["pairs_compared"]) == (0, 0)


@pytest.mark.soak
def test_signatures_of_two_schemes_are_never_compared(spark, tmp_path):
    write_texts(tmp_path, {"a": window(0, length=1), "b": window(1)})
    first = make_search(tmp_path / "t")
    find_reasons(spark, [make_source(tmp_path)], first)
    (tmp_path / "s" / "f").unlink()
    write_texts(tmp_path, {"a": window(0, length=1), "c": window(2)})
    other = make_search(tmp_path / "t", seed=2)
    with search_corpus(spark, [make_source(tmp_path)], other) as (_, evidence, corpus):
        assert corpus.facts["near_duplicates"]["signed"] == 2
        assert evidence[doc_id("c")].duplicate_of == doc_id("a")
    schemes = [row.scheme for row in SIGNATURES.read(spark, first.signatures).collect()]
    assert sorted(schemes) == sorted(2 * [schemes[0]] + 2 * [next(s for s in schemes if s != schemes[0])])


@pytest.mark.soak
def test_deleted_signatures_are_computed_again(spark, tmp_path):
    write_texts(tmp_path, {"a": window(0, length=1), "b": window(1)})
    search = make_search(tmp_path / "t")
    first = find_reasons(spark, [make_source(tmp_path)], search)
    spark.sql(f"DELETE FROM delta.`{search.signatures}`")
    assert find_reasons(spark, [make_source(tmp_path)], search) == first


def test_text_that_changes_while_it_is_read_stops_the_search(spark, tmp_path, monkeypatch):
    write_texts(tmp_path, {"a": window(0), "b": window(7)})
    file, search = tmp_path / "s" / "f", make_search(tmp_path / "t")

    def change(text):
        if text.endswith("signatures"):
            file.write_text(file.read_text().replace("w0050", "v0050"))

    with (
        pytest.raises(ContractError, match=r"2 texts have no signature in .*: files changed while"),
        search_corpus(spark, [make_source(tmp_path)], replace(search, report=change)),
    ):
        pass


@pytest.mark.slow
def test_every_removal_is_exact_and_no_near_pair_is_kept(spark, tmp_path):
    """Against sets of tuples, over all pairs of a corpus."""
    texts = random_corpus(5)
    write_texts(tmp_path, texts)
    with search_corpus(spark, [make_source(tmp_path)], make_search(tmp_path / "t")) as (_, evidence, _):
        found = {key: evidence[doc_id(key)] for key in texts if doc_id(key) in evidence}
    sets = {doc_id(key): set(find_tuples(text, 3)) for key, text in texts.items()}
    removed = {row.doc_id: row for row in found.values() if row.duplicate_of}
    for row in removed.values():
        assert row.jaccard == exact_jaccard(sets[row.doc_id], sets[row.duplicate_of]) >= 0.8
        assert row.duplicate_of not in removed
    exact = {doc_id(key) for key, copies in itertools.groupby(texts) for _ in copies}
    kept = exact - set(removed)
    near = [p for p in itertools.combinations(sorted(kept), 2) if 0.8 <= exact_jaccard(*map(sets.get, p)) < 1]
    assert near == []
    assert len(removed) > 30


def test_job_drops_near_duplicates_and_then_has_nothing_to_do(spark, tmp_path):
    from jobs import corpus
    from jobs.shell import settings as configuration

    write_texts(tmp_path / "raw", {"a": window(0, length=9), "b": window(1), "c": window(500)})
    fields = "{text: text, key: key, split: split}"
    source = f"{{name: s, path: {tmp_path}/raw/s, format: jsonl, fields: {fields}}}"
    overrides = [
        "recipe=near",
        f"root={tmp_path}/lake",
        f"corpus.sources=[{source}]",
        "corpus.near_duplicates.enabled=true",
        "corpus.near_duplicates.max_source_loss=0.4",
    ]
    config = configuration.load(overrides=overrides).section("corpus", corpus.Config)
    first, second = corpus.main(config), corpus.main(config)
    assert (first.ran, second.ran) == (True, False)
    assert first.facts["dropped"] == second.facts["dropped"] == "near_duplicate 1"
    assert first.facts["near duplicates"].startswith("1 clusters; 1 pairs shared a bucket, 1 of them")
    assert NEAR_DUPLICATES.read(spark, config.duplicates).count() == 2
    # An alarm comes before documents are written, and after the evidence.
    strict = configuration.load(
        overrides=[*overrides[:-1], "corpus.near_duplicates.max_source_loss=0.3", f"root={tmp_path}/strict"]
    )
    config = strict.section("corpus", corpus.Config)
    with pytest.raises(ValueError, match=r"1 of 3 documents.*documents were not written"):
        corpus.main(config)
    assert NEAR_DUPLICATES.read(spark, config.duplicates).count() == 2
    assert not (tmp_path / "strict" / "documents").exists()


def test_split_that_keeps_exact_copies_cannot_lose_near_ones(tmp_path):
    from jobs import corpus
    from jobs.shell import settings as configuration

    write_texts(tmp_path, {"a": "x"})
    overrides = [
        f"corpus.sources=[{{name: s, path: {tmp_path}/s, format: text}}]",
        "corpus.near_duplicates.enabled=true",
        "corpus.rules.drop_duplicates_from=[train]",
    ]
    config = configuration.load(overrides=overrides).section("corpus", corpus.Config)
    with pytest.raises(ValueError, match="drop_from has validation, which keeps its exact copies"):
        corpus.plan(config)

"""Near duplicates in a corpus. Expected similarities come from a formula or from sets of tuples."""

import itertools
import random
from dataclasses import replace

import pytest

from pipelines.corpus.neardup.find import write_evidence
from pipelines.delta import ContractError
from pipelines.tables import NEAR_DUPLICATES, SIGNATURES, SIMILARITIES
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


def test_evidence_names_survivor_similarity_and_buckets(spark, tmp_path):
    long, short = window(0, length=9), window(4)
    write_texts(tmp_path, {"long": long, "short": short, "other": window(500)})
    search = make_search(tmp_path / "tables")
    with search_corpus(spark, [make_source(tmp_path)], search) as (_, evidence, corpus):
        assert set(evidence) == {doc_id("long"), doc_id("short")}
        survivor, removed = evidence[doc_id("long")], evidence[doc_id("short")]
        assert removed.asDict() == {
            "doc_id": doc_id("short"),
            "source": "s",
            "split": "train",
            "cluster_id": doc_id("long"),
            "cluster_size": 2,
            "duplicate_of": doc_id("long"),
            "jaccard": shifted_jaccard(4),
            "num_buckets": removed.num_buckets,
        }
        # Each of the 20 buckets is shared with probability 0.92 ** 5 = 0.66.
        assert 5 <= removed.num_buckets <= 20
        assert (survivor.duplicate_of, survivor.jaccard, survivor.cluster_size) == (None, None, 2)
        facts = corpus.facts["near_duplicates"]
        assert facts["sources"] == {"s": {"compared": 3, "removed": 1}}
        assert (facts["signed"], facts["pairs"], facts["clusters"]) == (3, 1, 1)
    reasons = find_reasons(spark, [make_source(tmp_path)], search)
    assert reasons == {
        doc_id("long"): (None, None),
        doc_id("short"): (NEAR, doc_id("long")),
        doc_id("other"): (None, None),
    }


def test_chain_does_not_remove_what_is_unlike_the_survivor(spark, tmp_path):
    """a-b-c-d in steps of 5 words; a is unlike d (J = 0.73), and survives first because it is the longest."""
    assert shifted_jaccard(10) > 0.8 > shifted_jaccard(15)
    write_texts(tmp_path, {name: window(5 * n, length=9 - n) for n, name in enumerate("abcd")})
    with search_corpus(spark, [make_source(tmp_path)], make_search(tmp_path / "t")) as (_, evidence, _):
        survivors = {row.duplicate_of for row in evidence.values()}
        found = {name: evidence[doc_id(name)].duplicate_of for name in "abcd"}
    assert found == {"a": None, "b": doc_id("a"), "c": doc_id("a"), "d": None}
    assert survivors == {None, doc_id("a")}
    assert {row.cluster_id for row in evidence.values()} == {doc_id("a")}
    assert {row.cluster_size for row in evidence.values()} == {4}


@pytest.mark.parametrize(("min_jaccard", "is_removed"), [(0.8846, True), (0.8847, False)])
def test_pair_at_the_threshold_is_removed_and_below_it_not(spark, tmp_path, min_jaccard, is_removed):
    assert shifted_jaccard(6) == pytest.approx(92 / 104)
    assert 0.8846 < 92 / 104 < 0.8847
    write_texts(tmp_path, {"a": window(0, length=1), "b": window(6)})
    search = make_search(tmp_path / "t", min_jaccard=min_jaccard)
    reasons = find_reasons(spark, [make_source(tmp_path)], search)
    assert reasons[doc_id("b")] == ((NEAR, doc_id("a")) if is_removed else (None, None))


@pytest.mark.parametrize(("survivor", "kept"), [("longest", "b"), ("shortest", "c"), ("smallest_id", None)])
def test_policy_chooses_the_survivor(spark, tmp_path, survivor, kept):
    write_texts(tmp_path, {"a": window(0, length=1), "b": window(0, length=2), "c": window(0)})
    search = make_search(tmp_path / "t", survivor=survivor)
    reasons = find_reasons(spark, [make_source(tmp_path)], search)
    expected = min(map(doc_id, "abc")) if kept is None else doc_id(kept)
    assert {key for key, (reason, _) in reasons.items() if reason is None} == {expected}
    assert {target for _, target in reasons.values()} == {None, expected}


def test_test_split_stays_whole_and_train_loses_its_near_copies(spark, tmp_path):
    texts = {
        name: (window(0, length=n), split)
        for n, (name, split) in enumerate(
            {"t1": "test", "t2": "test", "v": "validation", "r": "train"}.items()
        )
    }
    write_texts(tmp_path, texts)
    reasons = find_reasons(spark, [make_source(tmp_path)], make_search(tmp_path / "t"))
    best = doc_id("t2")  # the longer one of test, although train has a longer text
    assert {name: reasons[doc_id(name)] for name in texts} == {
        "t1": (None, None),
        "t2": (None, None),
        "v": (NEAR, best),
        "r": (NEAR, best),
    }


def test_protected_source_loses_nothing_to_longer_texts(spark, tmp_path):
    write_texts(tmp_path, {"p": window(0), "q": window(1), "same": window(300)}, source="old")
    write_texts(tmp_path, {"long": window(0, length=9), "copy": window(300)}, source="new")
    sources = [make_source(tmp_path, "old"), make_source(tmp_path, "new")]
    free = find_reasons(spark, sources, make_search(tmp_path / "free"))
    assert free[doc_id("p", "old")] == (NEAR, doc_id("long", "new"))
    search = make_search(tmp_path / "t", protected_sources=("old",))
    reasons = find_reasons(spark, sources, search)
    assert [reasons[doc_id(key, "old")] for key in ("p", "q", "same")] == [(None, None)] * 3
    # p and q are equally long: the smaller id is named.
    assert reasons[doc_id("long", "new")] == (NEAR, min(doc_id("p", "old"), doc_id("q", "old")))
    assert reasons[doc_id("copy", "new")] == ("exact_duplicate", doc_id("same", "old"))


@pytest.mark.parametrize(("scope", "num_removed"), [("corpus", 3), ("source", 2), ("file", 1)])
def test_scope_limits_what_is_compared(spark, tmp_path, scope, num_removed):
    write_texts(tmp_path, {"a": window(0, length=1), "b": window(0, length=2)}, file="f")
    write_texts(tmp_path, {"c": window(0, length=3)}, file="g")
    write_texts(tmp_path, {"d": window(0, length=4)}, source="t")
    sources = [make_source(tmp_path), make_source(tmp_path, "t")]
    reasons = find_reasons(spark, sources, make_search(tmp_path / "tables", scope=scope))
    assert sum(reason == NEAR for reason, _ in reasons.values()) == num_removed


def test_short_and_dropped_texts_are_left_out(spark, tmp_path):
    texts = {"e": "", "one": "w1 w2", "two": "w1 w2!", "zh1": "我的银行卡还没有到，怎么办？"}
    texts["zh2"] = "我的银行卡还没有到。怎么办"
    write_texts(tmp_path, texts)
    search = make_search(tmp_path / "t")
    reasons = find_reasons(spark, [make_source(tmp_path)], search)
    assert [reasons[doc_id(key)][0] for key in texts] == ["empty", None, None, None, NEAR]
    counts = {row.num_shingles for row in SIGNATURES.read(spark, search.signatures).collect()}
    assert counts == {0, 10}  # 12 characters of Chinese are 10 shingles


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


def test_result_does_not_depend_on_partitions_or_driver(spark, tmp_path):
    write_texts(tmp_path, random_corpus(1))
    sources = [make_source(tmp_path)]
    usual = spark.conf.get("spark.sql.shuffle.partitions")
    results = []
    try:
        for number, (partitions, driver_edges) in enumerate(
            [("2", 10**6), ("1", 10**6), ("7", 20), ("50", 10**6)]
        ):
            spark.conf.set("spark.sql.shuffle.partitions", partitions)
            search = make_search(tmp_path / f"tables{number}", driver_edges=driver_edges)
            results.append(collect_results(spark, sources, search))
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", usual)
    assert all(result == results[0] for result in results)
    assert len(results[0][0]) > 50


def test_five_increments_equal_one_run(spark, tmp_path):
    texts = list(random_corpus(2, 150).items())
    random.Random(3).shuffle(texts)
    search, signed, compared = make_search(tmp_path / "grown"), [], []
    for start in range(0, 150, 30):
        write_texts(tmp_path, dict(texts[start : start + 30]), file=f"part{start}")
        with search_corpus(spark, [make_source(tmp_path)], search) as (_, _, corpus):
            signed.append(corpus.facts["near_duplicates"]["signed"])
            compared.append(corpus.facts["near_duplicates"]["pairs_compared"])
    grown = collect_results(spark, [make_source(tmp_path)], search)
    whole = collect_results(spark, [make_source(tmp_path)], make_search(tmp_path / "whole"))
    assert grown == whole
    num_texts = len({text for _, text in texts})
    assert sum(signed) == num_texts > 140
    assert max(signed) <= 30
    assert sum(compared) == SIMILARITIES.read(spark, f"{tmp_path}/whole/similarities").count() > 100
    for name in ("signatures", "similarities"):
        tables = [
            sorted(map(str, spark.read.format("delta").load(f"{tmp_path}/{kind}/{name}").collect()))
            for kind in ("grown", "whole")
        ]
        assert tables[0] == tables[1]


def test_second_run_computes_nothing_again(spark, tmp_path):
    write_texts(tmp_path, random_corpus(4, 40))
    search, facts = make_search(tmp_path / "t"), []
    for _ in range(2):
        with search_corpus(spark, [make_source(tmp_path)], search) as (_, _, corpus):
            facts.append(corpus.facts["near_duplicates"])
    assert facts[0]["signed"] == 40
    assert facts[0]["pairs_compared"] > 5
    assert (facts[1]["signed"], facts[1]["pairs_compared"]) == (0, 0)


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


def test_source_that_loses_too_much_raises_an_alarm(spark, tmp_path, caplog):
    write_texts(tmp_path, {"a": window(0, length=9)}, source="t")
    write_texts(tmp_path, {"b": window(1), "c": window(2), "d": window(500), "e": window(900)})
    sources = [make_source(tmp_path), make_source(tmp_path, "t")]
    for knobs, is_alarm in (({"max_source_loss": 0.5}, False), ({"max_source_loss": 0.49}, True)):
        search = make_search(tmp_path / "tables", **knobs)
        with search_corpus(spark, sources, search) as (_, _, corpus):
            if is_alarm:
                with pytest.raises(ValueError, match=r"0.49 of a source \(source 's': 2 of 4 documents\)"):
                    write_evidence(corpus.near_duplicates, search, "m")
            else:
                write_evidence(corpus.near_duplicates, search, "f")
        # The evidence is there in both cases, so that it can be looked at.
        assert NEAR_DUPLICATES.read(spark, search.evidence).where("duplicate_of IS NOT NULL").count() == 2
    warned = make_search(tmp_path / "tables", max_source_loss=0.49, on_alarm="warn")
    with search_corpus(spark, sources, warned) as (_, _, corpus):
        write_evidence(corpus.near_duplicates, warned, "w")
    assert "source 's': 2 of 4 documents" in caplog.text


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

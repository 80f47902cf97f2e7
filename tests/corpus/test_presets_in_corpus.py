"""Presets in the corpus stage: reasons, the table of signals, and what other limits would keep."""

import pytest

from pipelines.corpus.quality import find_failed_rule, label_rules
from pipelines.corpus.rules import Rules
from pipelines.corpus.what_if import Outcome, compare_rules
from pipelines.tables import DOCUMENTS, SIGNALS
from tests.corpus.test_build import build, sha, source, write_records

GOOD = "The cat sat on the mat and looked at the big dog with care."
SHORT = "A short line."
MEASURED = "signals ARRAY<DOUBLE>, language STRING, language_score DOUBLE"
RULES = Rules(
    presets=("fineweb", "gopher_quality@paper"),
    thresholds={"gopher_quality@paper/min_num_words": 10, "fineweb/max_short_line_fraction": 0.5},
)
# 13 characters: 1 of 1 lines is short; 3 words.
SHORT_RULE, WORDS_RULE = "fineweb/max_short_line_fraction", "gopher_quality@paper/min_num_words"
NO_STOP = "fineweb/min_stop_line_fraction"
TEXTS = {
    "good": GOOD,
    "good copy": GOOD,
    "short": SHORT,
    "short copy": SHORT,
    "no stop": GOOD.replace(".", ""),
    "empty": "",
    "few words": "Incomprehensibilities characterise internationalisation.",
}
REASONS = {
    "good": None,
    "short": SHORT_RULE,
    "short copy": SHORT_RULE,
    "no stop": NO_STOP,
    "empty": "empty",
    "few words": WORDS_RULE,
}


def write_texts(folder):
    write_records(folder, *[{"text": text, "key": key, "split": "train"} for key, text in TEXTS.items()])


def test_documents_name_the_first_rule_they_fail(spark, tmp_path):
    write_texts(tmp_path)
    write_records(tmp_path, {"text": "again", "key": "good"}, b"not JSON")
    with build(spark, [source(tmp_path)], RULES) as (documents, quarantine, corpus):
        ids = {sha("s", "key", key): key for key in TEXTS}
        found = {ids[row.doc_id]: row for row in documents.collect()}
        copy = next(key for key in ("good", "good copy") if found[key].duplicate_of)
        kept = "good" if copy == "good copy" else "good copy"
        expected = {**REASONS, kept: None, copy: "exact_duplicate"}
        assert {key: row.drop_reason for key, row in found.items()} == expected
        # A copy that fails a rule has both: its survivor and the rule.
        assert sum(found[key].duplicate_of is not None for key in ("short", "short copy")) == 1
        assert corpus.facts["dropped"] == {
            "empty": 1,
            "exact_duplicate": 1,
            NO_STOP: 1,
            SHORT_RULE: 2,
            WORDS_RULE: 1,
        }
        assert corpus.facts["kept"] == {"train": 1}
        assert sorted(row.reason.partition(":")[0] for row in quarantine.collect()) == [
            "duplicate key",
            "invalid JSON",
        ]


def test_signals_have_one_row_per_document(spark, tmp_path):
    write_texts(tmp_path)
    write_records(tmp_path, {"text": "again", "key": "good"}, b"not JSON")
    with build(spark, [source(tmp_path)], RULES) as (documents, _, corpus):
        rows = {row.doc_id: row for row in corpus.signals().collect()}
        assert rows.keys() == {row.doc_id for row in documents.collect()}
        good = rows[sha("s", "key", "good")]
        # "The cat sat on the mat and looked at the big dog with care.": 14 words, 46 characters with the mark
        assert (good.num_words, good.num_stop_words, good.stop_line_fraction) == (14, 3, 1)
        assert good.mean_word_length == pytest.approx(46 / 14)
        assert good.c4_paper_num_sentences is None  # no rule looks at it
        with SIGNALS.hold(corpus.signals(), str(tmp_path / "signals")) as held:
            assert held.num_rows == len(TEXTS)


def test_signals_do_not_depend_on_partitions(spark, tmp_path, monkeypatch):
    from pipelines.corpus.readers import slices

    for number in range(4):
        records = [{"text": f"{GOOD} {n} {number}. " * n, "key": f"{number} {n}"} for n in range(1, 12)]
        write_records(tmp_path, *({**record, "file": f"f{number}"} for record in records))
    digests, partitions = set(), set()
    for size in (2**11, 2**30):
        monkeypatch.setattr(slices, "MIN_SLICE_BYTES", size)
        monkeypatch.setattr(slices, "MAX_SLICE_BYTES", size)
        monkeypatch.setattr(slices, "_FILE_BYTES", 1)
        with build(spark, [source(tmp_path, mapped=["text", "key"])], RULES) as (documents, _, corpus):
            partitions.add(corpus.slices.num_tasks)
            digests.add((SIGNALS.digest(corpus.signals()), DOCUMENTS.digest(documents)))
    assert len(partitions) == 2
    assert len(digests) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {WORDS_RULE: 3.0},
        {SHORT_RULE: None},
        {SHORT_RULE: 1.0, NO_STOP: 0.0, WORDS_RULE: None},
        {WORDS_RULE: 100.0},
        {"min_chars": float(len(GOOD)), WORDS_RULE: None},
    ],
)
def test_what_if_equals_a_rebuild(spark, tmp_path, changes):
    write_texts(tmp_path)
    changed = RULES.change(changes)
    with build(spark, [source(tmp_path)], RULES) as (documents, _, corpus):
        outcomes = compare_rules(documents, corpus.signals(), RULES, changed)
    with build(spark, [source(tmp_path)], changed) as (_, _, again):
        then = {outcome.reason: outcome.changed_documents for outcome in outcomes}
        assert {reason: count for reason, count in then.items() if reason and count} == again.facts["dropped"]
        assert then[None] == sum(again.facts["kept"].values())
    now = {outcome.reason: outcome.num_documents for outcome in outcomes}
    assert {reason: count for reason, count in now.items() if reason and count} == corpus.facts["dropped"]


def test_what_if_varies_the_score_of_the_language(spark, tmp_path):
    write_texts(tmp_path)
    rules = Rules(languages=("en",), min_language_score=0.4)
    changed = rules.change({"min_language_score": 0.6})  # that of "few words" is 0.50
    with build(spark, [source(tmp_path)], rules) as (documents, _, corpus):
        outcomes = compare_rules(documents, corpus.signals(), rules, changed)
    found = {each.reason: (each.num_documents, each.changed_documents) for each in outcomes}
    assert found == {None: (3, 2), "language": (2, 3), "empty": (1, 1), "exact_duplicate": (1, 1)}


def test_what_if_counts_characters(spark, tmp_path):
    write_texts(tmp_path)
    with build(spark, [source(tmp_path)], RULES) as (documents, _, corpus):
        kept, *others = compare_rules(documents, corpus.signals(), RULES, RULES.change({NO_STOP: None}))
    assert kept == Outcome(None, 1, len(GOOD), 2, 2 * len(GOOD) - 1)
    assert Outcome(NO_STOP, 1, len(GOOD) - 1, 0, 0) in others
    assert [outcome.reason for outcome in others] == sorted(outcome.reason for outcome in others)


def test_what_if_refuses_signals_that_were_not_measured(spark, tmp_path):
    write_texts(tmp_path)
    more = Rules(presets=(*RULES.presets, "c4@paper"), thresholds=RULES.thresholds)
    with (
        build(spark, [source(tmp_path)], RULES) as (documents, _, corpus),
        pytest.raises(ValueError, match=r"c4_paper_brace_lines, .* were not measured; add their preset"),
    ):
        compare_rules(documents, corpus.signals(), RULES, more)


def test_limits_are_inclusive(spark):
    rules = Rules(presets=("fineweb",))
    # stop lines, short lines, copied characters, line breaks per token: at the limits, then just beyond each
    at = [0.12, 0.67, 0.01, 0.3]
    rows = [at, [0.119, *at[1:]], [0.12, 0.671, 0.02, 0.3], [*at[:2], 0.0101, 0.3], [*at[:3], 0.301], None]
    signals = spark.createDataFrame([(row, None, None) for row in rows], MEASURED)
    found = [row.failed_rule for row in label_rules(signals, rules).collect()]
    limits = [limit.rule for limit in rules.limits]
    assert found == [None, limits[0], limits[1], limits[2], limits[3], None]


def test_without_presets_no_rule_fails(spark):
    signals = spark.createDataFrame([(None, "en", 1.0)], MEASURED)
    assert signals.select(find_failed_rule(Rules(), {}).alias("rule")).collect()[0].rule is None


def test_languages_are_kept_by_name_and_score(spark):
    rules = Rules(languages=("en", "zh"), min_language_score=0.7)
    rows = [
        ("en", 0.7),
        ("en", 0.69),
        ("de", 1.0),
        ("zh-Hans", 0.9),
        ("zh-Hant", 0.9),
        ("zh", 0.9),
        (None, None),
    ]
    languages = spark.createDataFrame([(None, *row) for row in rows], MEASURED)
    found = [row.failed_rule for row in label_rules(languages, rules).collect()]
    assert found == [None, "language", "language", None, None, None, None]
    simplified = label_rules(languages, Rules(languages=("zh-Hans",)))
    assert [row.language for row in simplified.where("failed_rule IS NULL").collect()] == ["zh-Hans", None]


def test_documents_of_other_languages_keep_their_row(spark, tmp_path):
    texts = {"en": GOOD, "zh-Hans": "我的银行卡还没有到，怎么办？", "zh-Hant": "我的銀行卡還沒有到，怎麼辦？"}
    texts |= {"de": "Der Hund und die Katze schlafen heute nicht im Garten, sondern im Haus."}
    write_records(tmp_path, *[{"text": text, "key": name, "split": "train"} for name, text in texts.items()])
    with build(spark, [source(tmp_path)], Rules(languages=("en", "zh-Hans"))) as (documents, _, corpus):
        ids = {sha("s", "key", name): name for name in texts}
        assert {ids[row.doc_id]: row.language for row in corpus.signals().collect()} == {
            name: name for name in texts
        }
        reasons = {ids[row.doc_id]: row.drop_reason for row in documents.collect()}
    assert reasons == {"en": None, "zh-Hans": None, "zh-Hant": "language", "de": "language"}

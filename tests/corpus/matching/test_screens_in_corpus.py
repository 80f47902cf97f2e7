"""Evaluation sets and word lists in the corpus stage: reasons, evidence, facts, fingerprint."""

import gzip
import json
from types import SimpleNamespace

import pytest

from jobs import corpus
from jobs.shell import settings as configuration
from pipelines.corpus.build import open_corpus
from pipelines.corpus.manifest import list_sources
from pipelines.corpus.rules import Rules
from pipelines.corpus.what_if import compare_rules
from pipelines.pin import pin
from pipelines.tables import CONTAMINATION, DOCUMENTS, SIGNALS, WORD_MATCHES
from tests.conftest import TEST_CONF
from tests.corpus.test_build import sha

QUESTION = "Which river flows through the old town and joins the sea near the harbour of the island?"  # 17
ZH_QUESTION = "下列哪一条河流穿过老城区，并在岛上的港口附近流入大海？请选择正确的答案。"
SHORT = "Who wrote the first book about this mountain?"  # 8 words
RECORDS = {
    "test": [{"id": "q1", "q": QUESTION}, {"id": "q2", "q": SHORT}, {"id": "q3", "q": "Yes."}],
    "zh": [{"q": ZH_QUESTION}],
}
TEXTS = {
    "clean": ("A text of its own about nothing that anybody would ask in an examination, sadly.", "train"),
    "leak": (f"Quiz night! {QUESTION.upper()} (Answer: the Ill)", "train"),
    "leak copy": (f"Quiz night! {QUESTION.upper()} (Answer: the Ill)", "train"),
    "validation": (f"Question: {QUESTION}", "validation"),
    "test": (f"Q: {QUESTION}", "test"),
    "short": (f"He asked: who wrote the first book, about this mountain? {SHORT}", "train"),
    "zh": (f"小测验：{ZH_QUESTION}", "train"),
    "part": (" ".join(QUESTION.split()[:12]), "train"),
    "rude": ("You dumb fool! What a FOOL, what a dumb-bell you are.", "train"),
    "rude zh": ("这个大笨蛋，真是笨蛋。", "train"),
    "rude leak": (f"You fool, fool, fool: {QUESTION}", "train"),
    "once": ("Only a fool would say so, but it is true all the same.", "train"),
}
MAX_MATCHES = "word_list/rude/max_matches"
REASONS = {
    "clean": None,
    "leak": "contaminated",
    "leak copy": "contaminated",
    "validation": "contaminated",
    "test": None,
    "short": "contaminated",
    "zh": "contaminated",
    "part": None,
    "rude": MAX_MATCHES,
    "rude zh": MAX_MATCHES,
    "rude leak": "contaminated",
    "once": None,
}


def write_inputs(folder):
    for name, records in RECORDS.items():
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "rude.txt").write_text("# not nice\nfool\ndumb\n笨蛋\n", encoding="utf-8")
    with (folder / "texts.jsonl").open("w", encoding="utf-8") as file:
        for key, (text, split) in TEXTS.items():
            file.write(json.dumps({"key": key, "text": text, "split": split}, ensure_ascii=False) + "\n")


def write_config(folder, *more):
    fields = "{text: text, key: key, split: split}"
    sets = [
        f"{{name: {name}, path: {folder}/{name}.jsonl.gz, format: jsonl, fields: {fields}}}"
        for name, fields in (("test", "{text: q, key: id}"), ("zh", "{text: q}"))
    ]
    spark = "{" + ", ".join(f'{key}: "{value}"' for key, value in TEST_CONF.items()) + "}"
    overrides = [
        "recipe=texts",
        f"root={folder}/lake",
        f"corpus.sources=[{{name: s, path: {folder}/texts.jsonl, format: jsonl, fields: {fields}}}]",
        f"corpus.decontamination.evaluation_sets=[{', '.join(sets)}]",
        f"corpus.rules.word_lists=[{{name: rude, path: {folder}/rude.txt, max_matches: 1}}]",
        "corpus.rules.presets=[gopher_quality@paper]",
        *(
            f"corpus.rules.thresholds.gopher_quality@paper/{rule}=null"
            for rule in ("min_num_words", "min_num_stop_words", "min_mean_word_length")
        ),
        f"spark={spark}",
        *more,
    ]
    return configuration.load(overrides=overrides).section("corpus", corpus.Config)


@pytest.fixture(scope="module")
def made(spark, tmp_path_factory):
    """The stage run once, through its job."""
    folder = tmp_path_factory.mktemp("screens")
    write_inputs(folder)
    config = write_config(folder)
    return SimpleNamespace(folder=folder, config=config, outcome=corpus.main(config))


def read(spark, table, place):
    return [row.asDict() for row in table.read(spark, place).collect()]


def name_ids():
    return {sha("s", "key", key): key for key in TEXTS}


def test_contaminated_documents_say_so_first(spark, made):
    ids = name_ids()
    rows = read(spark, DOCUMENTS, made.config.documents)
    assert {ids[row["doc_id"]]: row["drop_reason"] for row in rows} == REASONS
    facts = pin(made.config.documents).facts
    assert facts["dropped"] == {"contaminated": 6, MAX_MATCHES: 2}
    assert facts["kept"] == {"test": 1, "train": 3}


def test_every_hit_has_a_row_of_evidence(spark, made):
    ids = name_ids()
    rows = read(spark, CONTAMINATION, made.config.contamination)
    # 17 words have 5 runs of 13; 33 Chinese characters have 12 runs of 22.
    expected = {(key, "test", "q1"): 5 for key in ("leak", "leak copy", "validation", "rude leak")}
    expected |= {("short", "test", "q2"): 2, ("zh", "zh", "zh.jsonl.gz:0"): 12}
    found = {(ids[row["doc_id"]], row["evaluation_set"], row["record"]): row for row in rows}
    assert {place: row["num_ngrams"] for place, row in found.items()} == expected
    assert all(row["exceeds"] for row in rows)
    first = found["leak", "test", "q1"]
    assert first["excerpt"] == "which river flows through the old town and joins the sea near the"
    assert (first["source"], first["split"]) == ("s", "train")


def test_facts_count_hits_by_set(made):
    facts = pin(made.config.documents).facts["contamination"]
    of_test = {"records": 3, "too_short": 1, "records_hit": 2, "documents": 5, "exceeding": 5, "ngrams": 22}
    of_zh = {"records": 1, "too_short": 0, "records_hit": 1, "documents": 1, "exceeding": 1, "ngrams": 12}
    assert facts == {"test": of_test, "zh": of_zh}
    assert pin(made.config.contamination).facts["contamination"] == facts
    limits = {"ngram": 13, "min_record_words": 8, "max_ngrams": 0, "max_fraction": 0.0}
    drops = {"on_hit": "drop", "drop_from": ["train", "validation"]}
    assert pin(made.config.documents).facts["decontamination"] == limits | drops
    shown = "test 5 documents with 2 of 3 records; zh 1 documents with 1 of 1 records"
    assert made.outcome.facts["contaminated"] == shown


def test_word_matches_are_counted_and_never_shown(spark, made):
    ids = name_ids()
    rows = read(spark, WORD_MATCHES, made.config.word_matches)
    found = {ids[row["doc_id"]]: (row["num_matches"], row["fraction"]) for row in rows}
    assert found == {
        "rude": (4, 4 / 12),  # dumb, fool, fool, dumb of 12 words
        "rude zh": (2, 4 / 9),
        "rude leak": (3, 3 / 21),
        "once": (1, 1 / 13),
    }
    assert not {"fool", "dumb", "笨蛋"} & {value for row in rows for value in row.values()}


def test_what_if_keeps_contamination_and_varies_word_lists(spark, made):
    config = made.config
    documents, signals = DOCUMENTS.read(spark, config.documents), SIGNALS.read(spark, config.signals)
    matches = WORD_MATCHES.read(spark, config.word_matches)
    changed = config.rules.change({MAX_MATCHES: 2, "word_list/rude/max_fraction": 0.05})
    outcomes = compare_rules(documents, signals, config.rules, changed, matches)
    counts = {each.reason: (each.num_documents, each.changed_documents) for each in outcomes}
    assert counts == {
        None: (4, 3),
        "contaminated": (6, 6),
        MAX_MATCHES: (2, 1),
        "word_list/rude/max_fraction": (0, 2),
    }


def test_a_second_run_has_nothing_to_do(made):
    assert not corpus.main(made.config).ran
    places = [place.rpartition("/")[2] for place in made.outcome.outputs]
    assert places == ["quarantine", "signals", "word_matches", "contamination", "documents"]


def test_report_keeps_what_it_finds(spark, made):
    report = write_config(made.folder, "corpus.decontamination.on_hit=report")
    manifest = report.add_screens(list_sources(report.sources))
    with open_corpus(spark, report.sources, manifest, Rules(word_lists=report.rules.word_lists)) as found:
        # the two copies are one text, and one of them is a copy now; "rude leak" has three matches
        assert found.facts["dropped"] == {"exact_duplicate": 1, MAX_MATCHES: 3}
        assert found.facts["contamination"]["test"]["documents"] == 5
        assert found.contamination().count() == 6
        with found.hold_documents(str(made.folder / "report")) as held:
            assert held.num_rows == len(TEXTS)


def test_only_the_asked_splits_are_looked_at(spark, made):
    only = write_config(made.folder, "corpus.decontamination.drop_from=[validation]")
    manifest = only.add_screens(list_sources(only.sources))
    with open_corpus(spark, only.sources, manifest, Rules(word_lists=only.rules.word_lists)) as found:
        assert found.facts["dropped"]["contaminated"] == 1
        assert [row.split for row in found.contamination().collect()] == ["validation"]

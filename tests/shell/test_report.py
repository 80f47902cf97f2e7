"""`corpus.report` and `distributary corpus --report`: what the page says equals what the tables hold."""

import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest

from jobs import corpus
from jobs.shell import settings as configuration
from jobs.shell.corpus_report import show_report
from pipelines import report as file
from pipelines.corpus.report.content import COPY, Amount, total
from pipelines.corpus.report.numbers import write_numbers
from pipelines.corpus.report.page import render
from pipelines.corpus.report.reading import Places, read_content
from pipelines.corpus.report.texts import NUM_EXAMPLES, choose_texts
from pipelines.dataset.token_counter import TRAINED
from pipelines.pin import pin
from pipelines.report import name_numbers, require_file, split_place
from pipelines.tables import DOCUMENTS, QUARANTINE, SEQUENCES, SIGNALS
from tests.conftest import TEST_CONF

SENTENCE = "The {0}th cat of the {0}th house sat on the {0}th mat and looked at the {0}th big dog."
LONG = " ".join(f"the {number}th house is with the {number}th man" for number in range(40))
SHORT = "fineweb/max_short_line_fraction"
ATTACK = "<script>alert('x')</script>"


def write_texts(folder):
    """59 kept, a test question, 50 dropped for short lines, one attack, empty, copies, German, broken."""
    texts = [SENTENCE.format(number) for number in range(60)]
    texts += [f"The line {number}." for number in range(50)] + [ATTACK, ""]
    texts += [texts[0]] * 3 + [f"{LONG}.", f"{LONG} again."]
    texts += ["Der Hund und die Katze schlafen heute nicht im Garten, sondern im Haus."]
    urls = [f"https://user:pw@example.org/{ATTACK}?mail=a@b.c"] * len(texts)
    lines = [json.dumps({"text": text, "url": url}) for text, url in zip(texts, urls, strict=True)]
    (folder / "a.jsonl").write_text("\n".join([*lines, "{broken", "{}"]) + "\n")
    (folder / "quiz.jsonl").write_text(json.dumps({"question": texts[7]}) + '\n{"question": "Who?"}\n')
    (folder / "b.jsonl").write_text(
        json.dumps({"text": "The 网页 here, on the mat and in the house.", "url": ""})
    )


def load(folder, *more):
    def source(name):
        fields = "fields: {text: text}, metadata: {url: url}"
        return f"{{name: {name}, path: {folder}/{name}.jsonl, format: jsonl, {fields}}}"

    quiz = f"{{name: quiz, path: {folder}/quiz.jsonl, format: jsonl, fields: {{text: question}}}}"
    spark = "{" + ", ".join(f'{key}: "{value}"' for key, value in TEST_CONF.items()) + "}"
    overrides = [
        "recipe=网页语料",
        f"root={folder}/lake",
        f"corpus.sources=[{source('a')}, {source('b')}]",
        f"spark={spark}",
        "corpus.rules.presets=[fineweb]",
        "corpus.rules.languages=[en, la, zh]",
        "corpus.rules.min_language_score=0.0",
        f"corpus.decontamination.evaluation_sets=[{quiz}]",
        "corpus.near_duplicates.enabled=true",
        "corpus.near_duplicates.max_source_loss=1.0",
        *more,
    ]
    return configuration.load(overrides=overrides)


def find_places(config, **values):
    names = ("documents", "quarantine", "signals", "duplicates")
    return Places(**{name: getattr(config, name) for name in names}, **values)


@pytest.fixture(scope="module")
def made(spark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_texts(folder)
    settings = load(folder, f"corpus.report={folder}/made/report.html")
    config = settings.section("corpus", corpus.Config)
    corpus.main(config)
    content = read_content(spark, find_places(config), config.rules, "网页语料", TRAINED)
    rows = DOCUMENTS.read(spark, config.documents).collect()
    languages = {row.doc_id: row.language for row in SIGNALS.read(spark, config.signals).collect()}
    return SimpleNamespace(
        folder=folder, settings=settings, config=config, content=content, rows=rows, languages=languages
    )


def add_up(rows, key):
    sums = {}
    for row in rows:
        sums[key(row)] = sums.get(key(row), Amount()) + Amount(1, row.num_chars)
    return sums


def test_counts_equal_the_rows_of_documents(made):
    rows, content = made.rows, made.content
    assert content.outcomes == add_up(rows, lambda row: (row.source, row.drop_reason))
    assert content.lengths == add_up(rows, lambda row: (row.drop_reason is None, row.num_chars.bit_length()))
    assert content.languages == add_up(
        rows, lambda row: (row.drop_reason is None, made.languages[row.doc_id])
    )
    assert total(content.count().values()).documents == len(rows)
    assert {
        "empty",
        "contaminated",
        "language",
        SHORT,
        COPY,
        "near_duplicate",
        None,
    } <= content.count().keys()
    assert len({language for _, language in content.languages}) >= 2


def test_clusters_equal_the_rows_of_documents(made):
    copies = Counter(row.duplicate_of for row in made.rows if row.drop_reason == COPY)
    expected = Counter((COPY, number + 1) for number in copies.values())
    assert made.content.clusters == {**expected, ("near_duplicate", 2): 1}
    assert made.content.searched


def test_evaluation_sets_are_counted(made):
    (counts,) = made.content.contamination.values()
    found = {name: counts[name] for name in ("records", "too_short", "records_hit", "documents", "exceeding")}
    assert found == {"records": 2, "too_short": 1, "records_hit": 1, "documents": 1, "exceeding": 1}


def test_faults_name_the_first_broken_record(made):
    found = {fault.kind: (fault.source, fault.num_records, fault.file) for fault in made.content.faults}
    assert found == {"invalid JSON": ("a", 1, "a.jsonl"), "text": ("a", 1, "a.jsonl")}
    assert made.content.quarantined == 2


def test_examples_are_documents_of_their_reason(made):
    rows = {row.doc_id: row for row in made.rows}
    for reason, examples in made.content.examples.items():
        of_reason = [row for row in made.rows if row.drop_reason == reason]
        assert len(examples) == min(NUM_EXAMPLES, len(of_reason))
        for example in examples:
            row = rows[example.doc_id]
            assert (row.drop_reason, row.file, row.offset) == (reason, example.file, example.offset)
            assert example.text == row.text[:300]
            assert example.num_chars == len(row.text)
            assert example.duplicate_of == row.duplicate_of
    assert made.content.examples.keys() == made.content.count().keys() - {None}


def test_the_choice_of_examples_ignores_partitions(made, spark):
    rows, outcomes = DOCUMENTS.read(spark, made.config.documents), made.content.outcomes
    assert made.content.count()[SHORT].documents > 40  # so only a part of them are candidates
    chosen = [choose_texts(rows.repartition(number), outcomes, with_sample=True) for number in (1, 7)]
    assert chosen[0] == chosen[1]
    assert chosen[0].examples == made.content.examples
    assert choose_texts(rows, {}, with_sample=True) == ({}, [])
    assert choose_texts(rows, outcomes, with_sample=False) == (made.content.examples, [])


def test_the_stage_writes_the_same_page_as_the_command(made, capsys):
    show_report(made.config, made.settings, f"{made.folder}/later.html")
    assert f"report: {made.folder}/later.html" in capsys.readouterr().out.replace("\n", "")
    page = (made.folder / "made" / "report.html").read_text()
    assert page == (made.folder / "later.html").read_text() == render(made.content)
    numbers = (made.folder / "made" / "report.json").read_text()
    assert numbers == (made.folder / "later.json").read_text() == write_numbers(made.content)
    documents = pin(made.config.documents)
    assert f'content="{documents.digest}"' in page
    assert "Corpus report: 网页语料" in page


def test_a_report_that_is_not_there_is_written_again(made):
    page, version = made.folder / "made" / "report.html", pin(made.config.documents).version
    written = page.read_text()
    page.write_text(written.replace(pin(made.config.documents).digest, "of other documents"))
    for missing in (page, page.with_suffix(".json"), page):
        outcome = corpus.main(made.config)
        assert not outcome.ran
        assert outcome.facts["report"] == str(page)
        assert page.read_text() == written
        assert page.with_suffix(".json").exists()
        missing.unlink()
    assert pin(made.config.documents).version == version
    corpus.main(made.config)


def test_attacks_in_documents_stay_text(made):
    page = render(made.content)
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;" in page
    assert "user:pw" not in page
    assert "a@b.c" not in page


def test_tokens_need_sequences_of_these_documents(made, spark):
    documents, place = pin(made.config.documents), f"{made.folder}/sequences"
    facts = {"documents": documents.identity(), "splits": {"train": {"tokens": 7}}}
    none = spark.createDataFrame([], SEQUENCES.schema)

    def read_tokens():
        places = find_places(made.config, sequences=place)
        return read_content(spark, places, made.config.rules, "t", TRAINED).tokens

    assert read_tokens() is None
    SEQUENCES.overwrite(none, place, fingerprint="a" * 32, facts=facts)
    assert read_tokens() == {"train": 7}
    facts["documents"] = {**facts["documents"], "digest": "other"}
    SEQUENCES.overwrite(none, place, fingerprint="b" * 32, facts=facts)
    assert read_tokens() is None


def test_a_report_needs_tables_made_together(made, spark, tmp_path):
    write_texts(tmp_path)
    config = load(tmp_path).section("corpus", corpus.Config)
    with pytest.raises(ValueError, match=r"documents is not a table that corpus has written; run: distrib"):
        read_content(spark, find_places(config), config.rules, "t", TRAINED)
    other = f"{tmp_path}/quarantine"
    QUARANTINE.overwrite(spark.createDataFrame([], QUARANTINE.schema), other, fingerprint="c" * 32, facts={})
    places = replace(find_places(made.config), quarantine=other)
    with pytest.raises(ValueError, match=r"quarantine was not made together with .*documents; run: distrib"):
        read_content(spark, places, config.rules, "t", TRAINED)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("{}", r" is a folder; give the name of a file, such as .*/report.html"),
        ("{}/", r"a report is one file, such as FOLDER/report.html; got "),
        ("s3://b/r.html?region=x", r"one file, such as FOLDER/report.html; got s3://b/r.html"),
    ],
)
def test_a_report_is_a_file(tmp_path, place, message):
    with pytest.raises(ValueError, match=message):
        require_file(place.format(tmp_path), "documents")


def test_a_page_may_lie_in_the_root(monkeypatch):
    opened = []
    monkeypatch.setattr(file, "Folder", lambda path: opened.append(path))
    assert [split_place(place)[1] for place in ("/a.html", "dbfs:/b.html", "/c/d.html")] == [
        "a.html",
        "b.html",
        "d.html",
    ]
    assert opened == ["/", "dbfs:/", "/c"]
    assert [name_numbers(name) for name in ("a.html", "b.htm")] == ["a.json", "b.htm.json"]

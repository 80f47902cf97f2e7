"""Tokens in the report of a corpus: against those of all texts, and against the sequences made of them."""

import json
from collections import Counter
from types import SimpleNamespace

import pytest

from jobs import corpus, dataset
from jobs.shell import settings as configuration
from jobs.shell.corpus_report import show_report
from pipelines.corpus.report.content import Tokens
from pipelines.corpus.report.reading import Places, read_content
from pipelines.corpus.report.texts import choose_texts
from pipelines.corpus.report.tokens import MOST
from pipelines.dataset.examples.encode import TextEncoder
from pipelines.dataset.token_counter import find_counter, make_counter
from pipelines.dataset.tokenizer import read_tokenizer, train_bpe
from pipelines.pin import pin
from pipelines.tables import DOCUMENTS, SEQUENCES
from tests.conftest import TEST_CONF


def write_texts(folder):
    """English: 320 kept, 40 too short, 3 copies, one empty. Chinese: 12 kept."""
    saying = "the river and the sea meet where an old town of stone houses stands by a long bridge"
    texts = [saying[: 20 + n % 60] + f", said the {n}th of the people there." for n in range(320)]
    texts += [f"No. {n}" for n in range(40)] + [texts[0]] * 3 + [""]
    river, people = "第{}条河流从山里流到海边，", "人们住在那里。"
    chinese = [river.format(n) * (3 + n) + people for n in range(12)]
    for name, own in (("english", texts), ("chinese", chinese)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in own))


def load(folder, *more):
    def source(name):
        return f"{{name: {name}, path: {folder}/{name}.jsonl, format: jsonl, fields: {{text: text}}}}"

    spark = "{" + ", ".join(f'{key}: "{value}"' for key, value in TEST_CONF.items()) + "}"
    overrides = [
        f"root={folder}/lake",
        f"corpus.sources=[{source('english')}, {source('chinese')}]",
        f"spark={spark}",
        "corpus.rules.min_chars=20",
        "dataset.task=language_modelling",
        "dataset.tokenizer.vocab_size=400",
        "dataset.packing.method=concatenate",
        "dataset.packing.sequence_length=64",
        *more,
    ]
    return configuration.load(overrides=overrides)


@pytest.fixture(scope="module")
def made(spark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    write_texts(folder)
    settings = load(folder)
    config, own = settings.section("corpus", corpus.Config), settings.section("dataset", dataset.Config)
    corpus.main(config)
    rows = DOCUMENTS.read(spark, config.documents).collect()
    return SimpleNamespace(folder=folder, settings=settings, config=config, dataset=own, rows=rows)


def read(spark, made, counter, sequences=None):
    names = ("documents", "quarantine", "signals", "duplicates")
    places = Places(**{name: getattr(made.config, name) for name in names}, sequences=sequences)
    return read_content(spark, places, made.config.rules, "t", counter)


def train(*texts):
    return train_bpe(iter(texts), vocab_size=300)


def count_all(rows, tokenizer):
    """The twin: every text encoded as the stage dataset does it, by source and reason."""
    sums, encoder = Counter(), TextEncoder(tokenizer)
    for row, encoded in zip(rows, encoder.encode([row.text for row in rows]), strict=True):
        sums[row.source, row.drop_reason] += len(encoded.input_ids) if row.text else 0
    return sums


def test_estimates_are_near_the_tokens_of_all_texts(spark, made):
    tokenizer = train("the river and the sea meet", "the people of the town")
    content = read(spark, made, make_counter(tokenizer, "mine"))
    counts = content.token_counts
    exact = count_all(made.rows, tokenizer)
    assert counts.tokenizer == "mine"
    assert counts.kept == {}
    assert counts.estimates.keys() == exact.keys()
    # Small cells are sampled whole; of the 320 kept ones about 200 are.
    assert {cell for cell in exact if counts.estimates[cell] == exact[cell]} == {*exact} - {("english", None)}
    assert counts.estimates["english", None] == pytest.approx(exact["english", None], rel=0.02)
    assert 0.6 * MOST < counts.num_sampled - 40 - 3 - 12 < 1.4 * MOST
    chars = {cell: amount.chars for cell, amount in content.outcomes.items()}
    english, chinese = (exact[name, None] / chars[name, None] for name in ("english", "chinese"))
    assert chinese > 2 * english  # so one ratio for all would be far off


def test_the_sample_is_of_its_source_and_reason(spark, made):
    outcomes = read(spark, made, "none").outcomes
    chosen = choose_texts(DOCUMENTS.read(spark, made.config.documents), outcomes, with_sample=True)
    texts = {(row.source, row.drop_reason, row.text) for row in made.rows}
    assert {(*text.cell, text.beginning) for text in chosen.sample} <= texts
    assert {text.cell for text in chosen.sample} == {cell for cell in outcomes if cell[1] != "empty"}


def test_sequences_give_exact_tokens_by_source(spark, made):
    show_report(made.config, made.settings, f"{made.folder}/before.html")
    assert "the stage dataset trains the tokenizer" in (made.folder / "before.html").read_text()
    dataset.main(made.dataset)
    sequences, place = pin(made.dataset.sequences), made.dataset.sequences
    counter = find_counter(None, pin(made.config.documents), sequences, made.dataset.tokenizers)
    content = read(spark, made, counter, place)
    twin = count_all(made.rows, read_tokenizer(made.dataset.tokenizers, sequences.facts["tokenizer"]))
    expected = {source: twin[source, None] for source in ("english", "chinese")}
    assert content.token_counts.kept == {**expected, None: sum(expected.values())}
    assert content.tokens == {split: counts["tokens"] for split, counts in sequences.facts["splits"].items()}
    assert content.count_tokens([None]) == Tokens(sum(expected.values()), is_exact=True)
    show_report(made.config, made.settings, f"{made.folder}/after.html")
    page = (made.folder / "after.html").read_text()
    assert f"tokenizer of table sequences ({sequences.facts['tokenizer'][:12]})" in page
    assert f"{sum(expected.values()):,}" in page


def test_cut_tokens_are_counted_for_all_sources_together(spark, made, tmp_path):
    place = f"{tmp_path}/sequences"
    splits = {"train": {"tokens": 7, "cut_tokens": 2}, "validation": {"tokens": 1, "cut_tokens": 0}}
    facts = {"documents": pin(made.config.documents).identity(), "splits": splits}
    none = spark.createDataFrame([], SEQUENCES.schema)
    SEQUENCES.overwrite(none, place, fingerprint="a" * 32, facts=facts)
    content = read(spark, made, make_counter(train("a"), "mine"), place)
    assert content.token_counts.kept == {None: 10}
    assert content.tokens == {"train": 7, "validation": 1}
    facts["documents"] = {**facts["documents"], "digest": "other"}
    SEQUENCES.overwrite(none, place, fingerprint="b" * 32, facts=facts)
    assert read(spark, made, make_counter(train("a"), "mine"), place).token_counts.kept == {}

"""`dataset.report` and `distributary dataset --report`: what the page says equals what the table holds."""

import json
from collections import Counter
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from jobs import corpus, dataset
from jobs.shell import settings as configuration
from jobs.shell.cli import build_program
from jobs.shell.sequences_report import show_report
from pipelines.dataset.report.content import FULL, Documents, Sequences, sum_by
from pipelines.dataset.report.decoding import PieceDecoder
from pipelines.dataset.report.numbers import write_numbers
from pipelines.dataset.report.page import render
from pipelines.dataset.report.reading import read_content
from pipelines.dataset.report.samples import NUM_SAMPLES, choose_samples
from pipelines.dataset.tokenizer import read_tokenizer
from pipelines.markup import escape
from pipelines.pin import pin
from pipelines.tables import DOCUMENTS, SEQUENCES
from tests.conftest import TEST_CONF

ATTACK = "<script>alert('x')</script> <|end_of_text|> \u202e"
LENGTH = 32


def write_texts(folder):
    """English, with an attack in every text, and Chinese: some shorter than a sequence, some longer."""
    english = [f"{ATTACK} number {n}. " + "The river meets the sea. " * (n % 9) for n in range(90)]
    chinese = [f"第{n}条河流从山里流到海边。" + "人们住在那里，" * (n % 7) for n in range(60)]
    for name, texts in (("english", english), ("chinese", chinese)):
        lines = (json.dumps({"text": text}) + "\n" for text in texts)
        (folder / f"{name}.jsonl").write_text("".join(lines))


def load(folder, *more):
    def source(name):
        splits = "splits: {train: 0.8, validation: 0.2}"
        return (
            f"{{name: {name}, path: {folder}/{name}.jsonl, format: jsonl, fields: {{text: text}}, {splits}}}"
        )

    spark = "{" + ", ".join(f'{key}: "{value}"' for key, value in TEST_CONF.items()) + "}"
    overrides = [
        "recipe=网页语料",
        f"root={folder}/lake",
        f"corpus.sources=[{source('english')}, {source('chinese')}]",
        f"spark={spark}",
        "dataset.task=language_modelling",
        "dataset.tokenizer.vocab_size=300",
        "dataset.packing.method=best_fit",
        f"dataset.packing.sequence_length={LENGTH}",
        *more,
    ]
    return configuration.load(overrides=overrides)


@pytest.fixture(scope="module")
def made(spark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequences")
    write_texts(folder)
    settings = load(folder, f"dataset.report={folder}/made/sequences.html")
    corpus.main(settings.section("corpus", corpus.Config))
    config = settings.section("dataset", dataset.Config)
    outcome = dataset.main(config)
    content = read_content(spark, config.sequences, config.tokenizers, "网页语料")
    rows = [row.asDict(recursive=True) for row in SEQUENCES.read(spark, config.sequences).collect()]
    documents = {row.doc_id: row for row in DOCUMENTS.read(spark, config.documents).collect()}
    return SimpleNamespace(
        folder=folder, config=config, outcome=outcome, content=content, rows=rows, documents=documents
    )


def test_counts_of_sequences_equal_the_rows(made):
    rows, content = made.rows, made.content
    assert content.lengths == sum_by(
        (
            (row["split"], row["num_tokens"].bit_length()),
            Sequences(1, row["num_tokens"], row["num_targets"], row["num_continued"]),
        )
        for row in rows
    )
    assert content.fills == Counter((row["split"], 10 * row["num_tokens"] // LENGTH) for row in rows)
    assert {tenths for _, tenths in content.fills} >= {FULL, 9}
    assert content.splits == ["train", "validation"]
    of_commit = pin(made.config.sequences).facts["splits"]
    for split, counts in of_commit.items():
        found = content.count(split)
        assert (found.sequences, found.tokens, found.targets, found.continued) == tuple(
            counts[name] for name in ("sequences", "tokens", "targets", "continued")
        )
        assert content.count_documents(split).cut == counts["cut_tokens"]


def test_counts_of_documents_equal_their_segments(made):
    tokens, segments, splits = Counter(), Counter(), {}
    for row in made.rows:
        for segment in row["segments"]:
            tokens[segment["doc_id"]] += segment["num_tokens"]
            segments[segment["doc_id"]] += 1
            splits[segment["doc_id"]] = row["split"]
    assert max(segments.values()) > 1  # a document longer than a sequence
    assert made.content.documents == sum_by(
        (
            (splits[doc_id], made.documents[doc_id].source, number.bit_length()),
            Documents(1, number, segments[doc_id]),
        )
        for doc_id, number in tokens.items()
    )
    assert {source for _, source, _ in made.content.documents} == {"english", "chinese"}
    assert made.content.count_documents().tokens == made.content.count().tokens


def test_samples_spell_the_texts_of_their_documents(made):
    rows = {(row["split"], row["sequence_id"]): row for row in made.rows}
    samples, end = made.content.samples, pin(made.config.sequences).facts["end_token_id"]
    assert [sample.split for sample in samples] == ["train"] * NUM_SAMPLES + ["validation"] * NUM_SAMPLES
    for sample in samples:
        row = rows[sample.split, sample.sequence_id]
        pieces = [piece for segment in sample.segments for piece in segment.pieces]
        assert [number for piece in pieces for number in piece.ids] == row["input_ids"]
        assert all(piece.is_special == (list(piece.ids) == [end]) for piece in pieces)
        targets = sum(len(piece.ids) for piece in pieces if piece.is_target)
        assert targets == sample.num_targets == row["num_targets"] > 0
        for segment in sample.segments:
            text = made.documents[segment.doc_id].text[segment.char_start : segment.char_end]
            shown = [piece for piece in segment.pieces if not piece.is_special]
            if not any(piece.is_name for piece in shown):
                assert "".join(piece.text for piece in shown) == text
            assert not segment.pieces[0].is_target


def test_the_choice_of_samples_ignores_partitions(made, spark):
    rows = SEQUENCES.read(spark, made.config.sequences)
    num_rows = Counter(row["split"] for row in made.rows)
    assert num_rows["train"] > 60  # so only a part of them are candidates
    kept = pin(made.config.sequences).facts["tokenizer"]
    decoder = PieceDecoder(read_tokenizer(made.config.tokenizers, kept))
    for number in (1, 7):
        assert choose_samples(rows.repartition(number), num_rows, decoder, []) == made.content.samples
    assert choose_samples(rows, {}, decoder, []) == []


def test_the_stage_writes_the_same_page_as_the_command(made, capsys):
    show_report(made.config, f"{made.folder}/later.html")
    assert f"report: {made.folder}/later.html" in capsys.readouterr().out.replace("\n", "")
    page = (made.folder / "made" / "sequences.html").read_text()
    assert page == (made.folder / "later.html").read_text() == render(made.content)
    numbers = (made.folder / "made" / "sequences.json").read_text()
    assert numbers == (made.folder / "later.json").read_text() == write_numbers(made.content)
    assert made.outcome.facts["report"] == f"{made.folder}/made/sequences.html"
    assert "Sequences report: 网页语料" in page
    shown = [piece.text for piece in made.content.samples[0].segments[0].pieces]
    assert all(escape(text.strip()) in page for text in shown)
    assert "<script" not in page
    assert "\u202e" not in page


def test_a_report_that_is_not_there_is_written_again(made):
    page, version = made.folder / "made" / "sequences.html", pin(made.config.sequences).version
    written = page.read_text()
    page.write_text(written.replace(pin(made.config.sequences).digest, "of other sequences"))
    for missing in (page, page.with_suffix(".json"), page):
        assert not dataset.main(made.config).ran
        assert page.read_text() == written
        assert page.with_suffix(".json").exists()
        missing.unlink()
    assert pin(made.config.sequences).version == version
    dataset.main(made.config)


def test_the_report_of_a_corpus_is_not_replaced(made, tmp_path):
    file = tmp_path / "report.json"
    file.write_text(json.dumps({"documents_version": 1, "documents_digest": "cd" * 16}))
    rule = (
        f"{file} is not of a report about sequences: it has no sequences_digest; .*give the page another name"
    )
    with pytest.raises(ValueError, match=rule):
        dataset.main(made.config.model_copy(update={"report": f"{tmp_path}/report.html"}))


def test_a_report_needs_a_table_of_the_stage(made, spark, tmp_path):
    with pytest.raises(ValueError, match=r"/none is not a table that dataset has written; run: distributary"):
        read_content(spark, f"{tmp_path}/none", made.config.tokenizers, "t")


def test_classes_are_the_targets_of_a_classification(flow, spark, tmp_path):
    config = flow.configs["dataset"]
    content = read_content(spark, config.sequences, config.tokenizers, "tickets")
    rows = {(row.split, row.sequence_id): row for row in SEQUENCES.read(spark, config.sequences).collect()}
    labels = pin(config.sequences).facts["labels"]
    assert content.num_labels == len(labels) == 4
    assert len(content.samples) == 3 * NUM_SAMPLES
    for sample in content.samples:
        row = rows[sample.split, sample.sequence_id]
        assert sample.label == labels[row.label]
        assert f'Class: <u class="target">{sample.label}</u>' in render(content)
        pieces = [piece for segment in sample.segments for piece in segment.pieces]
        assert not any(piece.is_target for piece in pieces)
    assert content.count().targets == len(rows)


def test_lengths_before_packing_have_what_was_cut_off(flow, spark):
    config = flow.configs["dataset"]
    content = read_content(spark, config.sequences, config.tokenizers, "tickets")
    rows = SEQUENCES.read(spark, config.sequences).collect()
    assert content.documents == sum_by(
        (
            (row.split, row.source, (row.num_tokens + row.num_cut_tokens).bit_length()),
            Documents(1, row.num_tokens, 1, row.num_cut_tokens),
        )
        for row in rows
    )
    cut = sum(counts["cut_tokens"] for counts in pin(config.sequences).facts["splits"].values())
    assert content.count_documents().cut == cut > 0


def test_only_corpus_and_dataset_take_report():
    def get_help(stage):
        return CliRunner().invoke(build_program(), [stage, "--help"]).output

    assert "before and after packing" in " ".join(get_help("dataset").replace("│", " ").split())
    assert "--report" not in get_help("finetune")
    assert "--what-if" not in get_help("dataset")

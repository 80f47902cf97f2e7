"""Retrieval through the five stages: pairs with negatives, two ranks with two micro-batches each, vectors."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from jobs.run import STAGES
from jobs.shell.settings import load
from pipelines.finetune.results import read_result
from pipelines.pin import pin
from pipelines.registry.runs.current import read_current
from pipelines.scoring.evaluate import compute_metric
from pipelines.tables import DOCUMENTS, PREDICTIONS, SEQUENCES
from tests.conftest import flow_overrides, write_tickets

pytestmark = pytest.mark.slow

PASSAGES = ("How do I get a new card?", "The rate of today.", "Cash from a machine.")
PARTS = "{query: question, positive: answer, negative: others}"
NUM_EMPTY = 2


def write_pairs(folder):
    """A query is every second word of a ticket, its positive the ticket; some have one or two negatives, two
    have an empty positive."""
    write_tickets(folder)
    lines = (folder / "train.csv").read_text(encoding="utf-8").splitlines()
    tickets = [line.rsplit(",", 1)[0].strip('"') for line in lines[1:400]]
    with (folder / "pairs.jsonl").open("w", encoding="utf-8") as file:
        for number, ticket in enumerate(tickets):
            others = [tickets[number - 1 - place] for place in range(number % 3)]
            answer = "" if number < NUM_EMPTY else ticket
            pair = {"question": " ".join(ticket.split()[::2]), "answer": answer, "others": others}
            file.write(json.dumps(pair) + "\n")
    (folder / "passages.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in PASSAGES))


def make_source(folder, name, mapping, splits):
    return f"{{name: {name}, path: {folder}/raw/{name}.jsonl, format: jsonl, {mapping}, splits: {splits}}}"


@pytest.fixture(scope="module")
def retrieval(spark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("retrieval")
    write_pairs(folder / "raw")
    pairs = make_source(folder, "pairs", f"parts: {PARTS}", "{train: 0.8, validation: 0.1, test: 0.1}")
    passages = make_source(folder, "passages", "fields: {text: text}", "{test: 1.0}")
    changes = (
        "recipe=questions",
        f"corpus.sources=[{pairs}, {passages}]",
        "dataset.task=retrieval",
        "dataset.packing.sequence_length=24",
        "finetune.micro_batch=4",
        "finetune.num_epochs=4.0",
        "finetune.retrieval.temperature=0.1",
    )
    settings = load(overrides=[*flow_overrides(folder), *changes])
    configs = {name: settings.section(name, stage.Config) for name, stage in STAGES.items()}
    outcomes = {name: stage.main(configs[name]) for name, stage in STAGES.items()}
    return SimpleNamespace(folder=folder, configs=configs, outcomes=outcomes)


def test_sequences_hold_the_texts_of_one_document_in_order(spark, retrieval):
    documents = DOCUMENTS.read(spark, retrieval.configs["corpus"].documents).where("drop_reason IS NULL")
    by_id = {row.doc_id: row for row in documents.collect()}
    rows = SEQUENCES.read(spark, retrieval.configs["dataset"].sequences).collect()
    assert len(rows) == sum(row.parts is not None for row in by_id.values()) - NUM_EMPTY > 300
    for row in rows:
        (doc_id,) = {segment.doc_id for segment in row.segments}
        document = by_id[doc_id]
        assert (row.label, row.num_targets, row.targets) == (0, 1, [])
        assert max(segment.num_tokens for segment in row.segments) <= 24
        for part, segment in zip(document.parts, row.segments, strict=True):
            found = document.text[segment.char_start : segment.char_end]
            assert part.text.startswith(found)
            assert found
    assert max(row.num_tokens for row in rows) > 24
    assert {len(row.segments) for row in rows} == {2, 3, 4}


def test_documents_that_are_no_pair_are_left_out_and_counted(retrieval):
    facts = pin(retrieval.configs["dataset"].sequences).facts
    assert facts["left_out"]["documents"] == NUM_EMPTY + len(PASSAGES)
    reasons = sorted({each["reason"] for each in facts["left_out"]["first"]})
    assert [reason[:24] for reason in reasons] == ["it has no part 'query', ", "its positive is empty; r"]


def test_the_model_learns_and_becomes_champion(retrieval):
    result = read_result(read_current(retrieval.configs["finetune"].folder).folder)
    assert result["metric"] == "mrr"
    assert result["after"]["mrr"] > result["before"]["mrr"]
    assert result["after"]["loss"] < result["before"]["loss"]
    assert retrieval.outcomes["registry"].facts["model version"] == "questions 1 (champion)"


def test_every_test_document_has_a_vector_and_every_pair_a_rank(spark, retrieval):
    predictions = PREDICTIONS.read(spark, retrieval.configs["scoring"].predictions)
    documents = DOCUMENTS.read(spark, retrieval.configs["corpus"].documents).where("split = 'test'")
    rows = predictions.collect()
    pairs = documents.where("exists(parts, part -> part.name = 'positive' AND part.text != '')").collect()
    pair_ids = {row.doc_id for row in pairs}
    assert len(rows) == documents.count() > len(pairs) > 20
    for row in rows:
        assert np.linalg.norm(row.embedding) == pytest.approx(1, abs=1e-4)
        assert (row.problem, row.prediction) == (None, "")
        assert (row.reciprocal_rank is not None) == (row.doc_id in pair_ids)
        assert -1 <= row.score <= 1
    ranks = [row.reciprocal_rank for row in rows if row.reciprocal_rank is not None]
    assert {row.text for row in rows if row.text in PASSAGES} == set(PASSAGES)
    assert compute_metric(predictions, "mrr") == pytest.approx(np.mean(ranks))
    assert compute_metric(predictions, "recall_at_1") == pytest.approx(np.mean(np.array(ranks) == 1))

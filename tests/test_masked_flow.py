"""Masked language modelling through the five stages, and a classification that starts from its model."""

import json
from types import SimpleNamespace

import pytest

from jobs.run import STAGES
from jobs.shell.settings import load
from pipelines.finetune.results import read_result
from pipelines.pin import pin
from pipelines.registry.runs.current import read_current
from pipelines.tables import DOCUMENTS, PREDICTIONS, SEQUENCES
from tests.conftest import flow_overrides, write_tickets

pytestmark = pytest.mark.slow


def run(folder, stages, *changes):
    settings = load(overrides=[*flow_overrides(folder), "finetune.num_ranks=1", *changes])
    configs = {name: settings.section(name, STAGES[name].Config) for name in stages}
    return SimpleNamespace(
        configs=configs, outcomes={name: STAGES[name].main(config) for name, config in configs.items()}
    )


@pytest.fixture(scope="module")
def masked(spark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("masked")
    write_tickets(folder / "raw")
    changes = (
        "dataset.task=masked_language_modelling",
        "dataset.packing.method=best_fit",
        "finetune.mask_fraction=0.2",
    )
    return SimpleNamespace(folder=folder, **vars(run(folder, STAGES, *changes)))


def test_sequences_name_mask_token_and_vocabulary(masked):
    facts = pin(masked.configs["dataset"].sequences).facts
    assert facts["mask_token_id"] == 2  # behind padding and end of text
    assert facts["vocab_size"] == 400


def test_the_model_learns_and_becomes_champion(masked):
    result = read_result(read_current(masked.configs["finetune"].folder).folder)
    assert result["after"]["bits_per_byte"] < result["before"]["bits_per_byte"]
    assert masked.outcomes["registry"].facts["model version"] == "tickets 1 (champion)"


def test_every_test_document_has_a_score_and_no_text(spark, masked):
    predictions = PREDICTIONS.read(spark, masked.configs["scoring"].predictions)
    documents = DOCUMENTS.read(spark, masked.configs["corpus"].documents).where("split = 'test'")
    assert predictions.count() == documents.count() > 100
    assert predictions.where("prediction != '' OR score <= 0").count() == 0


def test_some_sequences_hold_several_documents(spark, masked):
    sequences = SEQUENCES.read(spark, masked.configs["dataset"].sequences)
    assert sequences.where("size(segments) > 1").count() > 50


def test_a_classification_starts_from_the_model_folder(masked):
    base = read_current(masked.configs["finetune"].folder).folder + "/model"
    changes = (
        f"dataset.tokenizer.base={base}",
        f"dataset.sequences={masked.folder}/classes/sequences",
        f"finetune.folder={masked.folder}/classes/finetune",
        f"finetune.model={json.dumps({'base': base})}",
    )
    classes = run(masked.folder, ("dataset", "finetune"), *changes)
    result = read_result(read_current(classes.configs["finetune"].folder).folder)
    assert result["metric"] == "accuracy"
    assert result["after"]["accuracy"] > 0.6  # four intents

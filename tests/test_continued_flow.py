"""A second training starts from the registered model of the first: its tokenizer and its weights come from
MLflow, by alias."""

import json
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
import torch

from jobs.run import STAGES
from jobs.shell.settings import load
from pipelines.finetune.models.folder import load_model
from pipelines.pin import pin
from pipelines.registry.runs.current import read_current
from pipelines.registry.versions.resolve import resolve_model
from tests.conftest import flow_overrides

pytestmark = pytest.mark.slow

BASE = "models:/tickets@champion"


@pytest.fixture(scope="module")
def continued(flow, tmp_path_factory):
    """Stages 2 and 3 on the documents of the flow, with a learning rate so small that weights stay."""
    root = tmp_path_factory.mktemp("continued")
    changes = [
        f"root={root}/lake",
        f"dataset.documents={flow.folder}/lake/documents",
        f"dataset.tokenizer.base={BASE}",
        f"finetune.model={json.dumps({'base': BASE})}",
        "finetune.optimization.learning_rate=1e-12",
        "finetune.num_epochs=1.0",
    ]
    settings = load(overrides=[*flow_overrides(flow.folder), *changes])
    configs = {name: settings.section(name, STAGES[name].Config) for name in ("dataset", "finetune")}
    outcomes = {name: STAGES[name].main(config) for name, config in configs.items()}
    return SimpleNamespace(configs=configs, outcomes=outcomes)


def test_the_tokenizer_of_the_model_writes_the_same_sequences(flow, continued):
    first, second = pin(flow.configs["dataset"].sequences), pin(continued.configs["dataset"].sequences)
    assert second.facts["tokenizer"] == first.facts["tokenizer"]
    assert second.facts["splits"] == first.facts["splits"]


def test_training_continues_from_the_weights_of_the_version(flow, continued):
    model = load_model(Path(read_current(continued.configs["finetune"].folder).folder) / "model")
    champion = resolve_model("tickets", "champion")
    assert model.spec.base == champion.uri == "models:/tickets/1"
    found, wanted = model.module.encoder.state_dict(), load_model(champion.folder).module.encoder.state_dict()
    assert all(torch.allclose(found[name], wanted[name], atol=1e-6) for name in wanted)


def test_the_run_names_the_version_and_not_the_alias(flow, continued):
    run = mlflow.get_run(read_current(continued.configs["finetune"].folder).run_id)
    assert any("models:/tickets/1" in value for value in run.data.params.values())
    assert not any("champion" in value for value in run.data.params.values())


def test_a_second_run_has_nothing_to_do(continued):
    for name, config in continued.configs.items():
        assert not STAGES[name].main(config).ran

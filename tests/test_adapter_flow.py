"""An adapter through the stages: trained by two ranks, registered, judged and scored, merged and alone."""

import json
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pandas as pd
import pytest
import safetensors.torch
from mlflow import MlflowClient

from jobs.run import STAGES
from jobs.shell.bundle_command import bundle
from jobs.shell.settings import load
from pipelines.finetune.results import read_result
from pipelines.registry.runs.current import read_current
from pipelines.registry.versions.resolve import resolve_model
from pipelines.tables import DOCUMENTS, PREDICTIONS
from tests.conftest import flow_overrides, write_tickets

pytestmark = [pytest.mark.slow, pytest.mark.horovod]


def run(folder, stages, *changes):
    settings = load(overrides=[*flow_overrides(folder), *changes])
    configs = {name: settings.section(name, STAGES[name].Config) for name in stages}
    outcomes = {name: STAGES[name].main(config) for name, config in configs.items()}
    return SimpleNamespace(configs=configs, outcomes=outcomes)


@pytest.fixture(scope="module")
def adapted(spark, tmp_path_factory):
    """A base that saw the texts for a short time, then an adapter on it: merged, version 1, and alone, 2."""
    folder = tmp_path_factory.mktemp("adapter")
    write_tickets(folder / "raw")
    short = ("finetune.num_epochs=1.0", "finetune.num_ranks=1", f"finetune.folder={folder}/base")
    first = run(folder, ("corpus", "dataset", "finetune"), *short)
    base = read_current(first.configs["finetune"].folder).folder + "/model"
    documents = DOCUMENTS.read(spark, first.configs["corpus"].documents)
    found = {"base": base, "labels": documents.select("label").distinct().collect()}
    for name, merge, alias in (("merged", True, "1"), ("alone", False, "2")):
        adapter = {"kind": "lora", "rank": 8, "merge": merge}
        found[name] = run(
            folder,
            ("finetune", "registry", "scoring"),
            f"finetune.model={json.dumps({'base': base, 'config': {}, 'adapter': adapter})}",
            "finetune.optimization.learning_rate=0.01",
            "finetune.num_epochs=4.0",
            f"scoring.alias='{alias}'",
            f"scoring.predictions={folder}/predictions/{name}",
        )
    return SimpleNamespace(folder=folder, documents=first.configs["corpus"].documents, **found)


@pytest.fixture(scope="module")
def bundled(adapted):
    """Both versions as adapters of one: called as two of the intents, so that labels name them."""
    names = sorted({row.label for row in adapted.labels})[:2]
    given = [f"{name}=tickets/{version}" for version, name in enumerate(names, 1)]
    overrides = flow_overrides(adapted.folder)
    for _ in range(2):
        bundle(given, "desk", overrides=overrides)
    chosen = ("scoring.name=desk", "scoring.alias=challenger", "scoring.adapter_column=label")
    scored = run(
        adapted.folder, ("scoring",), *chosen, f"scoring.predictions={adapted.folder}/predictions/desk"
    )
    return SimpleNamespace(names=names, **vars(scored))


def read_rows(spark, part):
    rows = PREDICTIONS.read(spark, part.configs["scoring"].predictions).collect()
    return {row.doc_id: row for row in rows}


def test_the_adapter_learns_and_becomes_champion(adapted):
    result = read_result(read_current(adapted.merged.configs["finetune"].folder).folder)
    assert result["after"]["accuracy"] > max(0.5, result["before"]["accuracy"])  # four intents
    assert result["num_trained_parameters"] < result["num_parameters"] / 3
    assert adapted.merged.outcomes["registry"].facts["model version"] == "tickets 1 (champion)"
    trained = adapted.merged.outcomes["finetune"].facts["trained parameters"]
    assert trained == f"{result['num_trained_parameters']:,} of {result['num_parameters']:,}"


def test_the_registry_holds_whole_weights_or_the_adapter_alone(adapted):
    files = {}
    for version in (1, 2):
        folder = resolve_model("tickets", version).folder
        weights = folder.rglob("*.safetensors")
        files[version] = {str(file.relative_to(folder)): file.stat().st_size for file in weights}
        needed = (folder.parents[1] / "requirements.txt").read_text()
        assert ("peft==" in needed) == (version == 2)
    assert set(files[1]) == {"model.safetensors", "adapter/adapter_model.safetensors"}
    assert set(files[2]) == {"head.safetensors", "adapter/adapter_model.safetensors"}
    assert sum(files[1].values()) > 3 * sum(files[2].values())


def test_both_versions_predict_the_same(spark, adapted):
    merged, alone = read_rows(spark, adapted.merged), read_rows(spark, adapted.alone)
    assert len(merged) == DOCUMENTS.read(spark, adapted.documents).where("split = 'test'").count() > 100
    assert merged.keys() == alone.keys()
    assert [{row.model_version for row in rows.values()} for rows in (merged, alone)] == [{1}, {2}]
    assert [row.prediction for row in merged.values()] == [alone[each].prediction for each in merged]
    assert max(abs(row.score - alone[each].score) for each, row in merged.items()) < 1e-5


def test_a_bundle_scores_each_row_by_the_adapter_that_it_names(spark, adapted, bundled):
    rows = read_rows(spark, bundled)
    alone = read_rows(spark, adapted.alone)
    assert rows.keys() == alone.keys()
    assert {row.model_name for row in rows.values()} == {"desk"}
    assert {row.model_version for row in rows.values()} == {1}  # the second call made nothing
    for doc_id, row in rows.items():
        assert row.adapter == row.label
        if row.label in bundled.names:
            assert row.prediction == alone[doc_id].prediction
            assert row.score == pytest.approx(alone[doc_id].score, abs=1e-5)
        else:
            assert row.problem == (
                f"it names the adapter {row.label!r}, which is not there; the bundle has "
                f"{', '.join(bundled.names)}"
            )
    counts = [sum(row.label in bundled.names for row in rows.values()), len(rows)]
    assert 20 < counts[0] < counts[1] - 20
    plan = STAGES["scoring"].plan(bundled.configs["scoring"])
    assert plan.up_to_date


def test_mlflow_serves_the_adapter_on_its_base(spark, adapted):
    rows = list(read_rows(spark, adapted.alone).values())[:5]
    texts = pd.DataFrame({"text": [row.text for row in rows]})
    served = mlflow.pyfunc.load_model("models:/tickets/2").predict(texts)
    assert list(served["prediction"]) == [row.prediction for row in rows]


def test_the_run_names_the_adapter(adapted):
    current = read_current(adapted.merged.configs["finetune"].folder)
    params = MlflowClient().get_run(current.run_id).data.params
    assert (params["architecture.adapter.kind"], params["architecture.adapter.rank"]) == ("lora", "8")


def test_the_plan_says_what_is_trained(adapted):
    plan = STAGES["finetune"].plan(adapted.alone.configs["finetune"])
    assert plan.up_to_date
    assert plan.notes["adapter"].startswith("lora of rank 8 and alpha 32 on all linear layers")


def test_scoring_refuses_another_base(spark, adapted):
    file = Path(adapted.base) / "model.safetensors"
    original = file.read_bytes()
    weights = safetensors.torch.load_file(file)
    weights["encoder.encoder.layer.0.output.dense.bias"][0] += 1
    safetensors.torch.save_file(weights, file, metadata={"format": "pt"})
    scoring = STAGES["scoring"]
    config = adapted.alone.configs["scoring"]
    # Another precision: a worker that is kept has the model of the old one.
    changes = {"predictions": f"{adapted.folder}/predictions/refused", "precision": "float32"}
    other = config.model_copy(update=changes)
    try:
        with pytest.raises(Exception, match=r"belongs to the base weights .*/model with sha256"):
            scoring.main(other)
    finally:
        file.write_bytes(original)
    assert scoring.main(other).facts["predictions added"] != "0"

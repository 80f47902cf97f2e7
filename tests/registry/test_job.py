"""Which run the registry uses: the one of the configuration, which the finetune job made the current one."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import mlflow
import pytest

from jobs import finetune, registry
from jobs.shell import redaction
from jobs.shell import settings as configuration
from pipelines.dataset.build import COUNTED
from pipelines.lease import Lease
from pipelines.registry.runs import current as runs
from pipelines.registry.runs.tracker import ERROR_TAG, Tracker, read_run_status
from pipelines.storage import Folder
from pipelines.tables import DOCUMENTS, SEQUENCES
from tests.conftest import flow_overrides

RESULT = {
    "metric": "accuracy",
    "before": {"accuracy": 0.1},
    "after": {"accuracy": 0.5},
    "total_steps": 3,
    "confusion": None,
}


@pytest.fixture(scope="module")
def tables(spark, tmp_path_factory):
    """Tables without rows: these tests check which run is used, not what it learned."""
    folder = tmp_path_factory.mktemp("jobs")
    configs = stage_configs(folder)
    documents = spark.createDataFrame([], DOCUMENTS.schema)
    pinned = DOCUMENTS.overwrite(documents, configs.registry.documents, fingerprint="d", facts={})
    facts = {
        "task": "classification",
        "labels": ["a", "b"],
        "tokenizer": "t",
        "sequence_length": 48,
        "splits": {"train": dict.fromkeys(COUNTED, 1)},
        "documents": asdict(pinned),
    }
    SEQUENCES.overwrite(
        spark.createDataFrame([], SEQUENCES.schema), configs.finetune.sequences, fingerprint="s", facts=facts
    )
    return folder


@pytest.fixture
def configs(tables, experiment, store_folder, tmp_path):
    """Configurations of the two stages, with the test's own experiment and folder."""
    tracking = (
        f"tracking={{uri: 'sqlite:///{store_folder}/mlflow.db', artifacts: null, experiment: '{experiment}'}}"
    )
    return stage_configs(tables, tracking, f"finetune.folder={tmp_path}/finetune")


def stage_configs(folder, *overrides):
    settings = configuration.load(overrides=[*flow_overrides(folder), *overrides])
    return SimpleNamespace(
        finetune=settings.section("finetune", finetune.Config),
        registry=settings.section("registry", registry.Config),
    )


def training_folder(config):
    return finetune.plan(config).inputs[0].folder


def train(config):
    """Run the finetune job with a result that its ranks would write. Returns the run's id."""
    Folder(training_folder(config)).write("result.json", json.dumps(RESULT).encode())
    assert finetune.main(config).ran
    return runs.require_current(config.folder, read_run_status).run_id


def num_runs(config):
    return len(mlflow.search_runs(experiment_names=[config.tracking.experiment]))


def test_the_configured_training_is_registered_not_the_newest(configs):
    first = train(configs.finetune)
    second = train(configs.finetune.model_copy(update={"seed": 1}))
    Tracker(configs.finetune.tracking.experiment, "colleague", tags={runs.FOLDER_TAG: "/elsewhere"}).finish()
    assert registry.plan(configs.registry).inputs[0].run_id == second != first
    planned = finetune.plan(configs.finetune)
    assert not planned.up_to_date
    assert (
        planned.why
        == f"run {first} was trained from the same sequences and settings; another training came after it"
    )
    before = num_runs(configs.finetune)
    assert finetune.main(configs.finetune).ran
    assert num_runs(configs.finetune) == before == 3
    assert registry.plan(configs.registry).inputs[0].run_id == first
    assert (finetune.plan(configs.finetune).up_to_date, finetune.main(configs.finetune).ran) == (True, False)


def test_a_missing_pointer_is_written_again(configs):
    run_id = train(configs.finetune)
    Folder(configs.finetune.folder).delete(runs.POINTER)
    with pytest.raises(
        FileNotFoundError, match=r"no finished training in .*/finetune; run first: distributary finetune"
    ):
        registry.plan(configs.registry)
    assert finetune.plan(configs.finetune).why.endswith("; current.json is missing")
    finetune.main(configs.finetune)
    assert registry.plan(configs.registry).inputs[0].run_id == run_id
    assert num_runs(configs.finetune) == 1


def test_a_pointer_to_an_unfinished_run_is_refused(configs):
    run_id = train(configs.finetune)
    mlflow.MlflowClient().delete_run(run_id)
    with pytest.raises(
        LookupError, match=f"run {run_id}, which is deleted in MLflow, not FINISHED; run first: distributary"
    ):
        registry.plan(configs.registry)
    again = train(configs.finetune)
    assert registry.plan(configs.registry).inputs[0].run_id == again != run_id
    current = runs.require_current(configs.finetune.folder, read_run_status)
    runs.write_current(configs.finetune.folder, current._replace(run_id="0" * 32))
    with pytest.raises(LookupError, match="which is unknown in MLflow"):
        registry.plan(configs.registry)
    unfinished = Tracker(configs.finetune.tracking.experiment, "abc")
    runs.write_current(configs.finetune.folder, current._replace(run_id=unfinished.run_id))
    with pytest.raises(LookupError, match="which is RUNNING in MLflow"):
        registry.plan(configs.registry)


def test_a_second_driver_does_not_join_a_training(configs):
    held = Lease(Folder(training_folder(configs.finetune)))
    with held, pytest.raises(RuntimeError, match="is in use by process"):
        finetune.main(configs.finetune)
    assert mlflow.MlflowClient().get_experiment_by_name(configs.finetune.tracking.experiment) is None
    train(configs.finetune)


def test_foreign_sequences_are_not_trained_on(spark, configs, tmp_path):
    spark.createDataFrame([], SEQUENCES.schema).write.format("delta").save(str(tmp_path / "sequences"))
    foreign = configs.finetune.model_copy(update={"sequences": str(tmp_path / "sequences")})
    with pytest.raises(
        ValueError, match=r"sequences was changed outside of Distributary .*run: distributary dataset"
    ):
        finetune.plan(foreign)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("registry.min_gain=-0.1", "registry.min_gain should be greater than or equal to 0, got -0.1"),
        ("registry.min_gain=.inf", "registry.min_gain should be a finite number"),
        ("registry.batch_size=0", "registry.batch_size should be greater than or equal to 1, got 0"),
        ("registry.split=all", "registry.split should be 'train', 'validation' or 'test', got 'all'"),
        (
            "finetune.evaluation_split=valid",
            "finetune.evaluation_split should be 'train', 'validation' or 'test', got 'valid'",
        ),
        (
            "finetune.final_split=dev",
            "finetune.final_split should be 'train', 'validation' or 'test', got 'dev'",
        ),
        ("finetune.num_epochs=.inf", "finetune.num_epochs should be a finite number"),
        (f"finetune.seed={2**63}", "finetune.seed should be less than 9223372036854775808"),
    ],
)
def test_a_value_outside_its_range_is_refused(tmp_path, override, message):
    with pytest.raises(ValueError, match=message):
        stage_configs(tmp_path, override)


def test_moving_the_pointer_alone_starts_no_spark(configs, monkeypatch):
    run_id = train(configs.finetune)
    Folder(configs.finetune.folder).delete(runs.POINTER)
    monkeypatch.setattr("pipelines.spark.session", None)
    monkeypatch.setattr("pipelines.spark.start_ahead", None)
    assert finetune.main(configs.finetune).ran
    assert runs.require_current(configs.finetune.folder, read_run_status).run_id == run_id


def test_an_error_is_kept_in_the_run_without_secrets(configs, monkeypatch):
    """A result that cannot be read stands for errors of libraries, which repeat what they were given."""
    monkeypatch.setattr(redaction, "_known", set())
    redaction.remember({"password": "hunter2!"})
    result = {**RESULT, "after": {"accuracy": "hunter2!"}}
    Folder(training_folder(configs.finetune)).write("result.json", json.dumps(result).encode())
    with pytest.raises(ValueError, match="hunter2!"):
        finetune.main(configs.finetune)
    (run,) = mlflow.search_runs(experiment_names=[configs.finetune.tracking.experiment], output_format="list")
    assert run.info.status == "FAILED"
    kept = [run.data.tags[ERROR_TAG], mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/error.txt")]
    assert kept == ["ValueError: could not convert string to float: '[redacted]'"] * 2

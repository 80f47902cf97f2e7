"""The command `tables`: what needs a version is kept, the rest is shown and deleted on request."""

import os
import time
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from jobs.run import STAGES
from jobs.shell import tables
from jobs.shell.layers import CONF
from jobs.shell.settings import load
from jobs.shell.tables import find_needs
from pipelines.commit import commit_shards, create_table
from pipelines.contract import PROPERTIES
from pipelines.pin import open_log, pin
from pipelines.registry.runs.lineage import list_inputs, record_input
from pipelines.registry.store import connect
from pipelines.retention import list_values, measure_table
from tests.test_commits import SPARK_SCHEMA
from tests.test_shards import batch, plan_for, write

OLD = (time.time() - 9 * 86400,) * 2


def put_version(path, name, *, numbers=(1,), facts=None, fingerprint=None):
    """One more version of the table `name`, with these rows in place of the earlier ones."""
    if open_log(path) is None:
        properties = dict(PROPERTIES)
        create_table(path, SPARK_SCHEMA, name=name, description="", partition_by=[], properties=properties)
    log = open_log(path)
    made_from = fingerprint or f"{name}{log.version + 1}"
    _, shards = write(plan_for(path, folder=f"w-{made_from}"), batch(list(numbers)))
    record = {
        "table": name,
        "digest": "d" * 32,
        "num_rows": len(numbers),
        "fingerprint": made_from,
        "facts": facts or {},
        "last_foreign": -1,
        "number": log.last_number() + 1,
        "folder": f"w-{made_from}",
    }
    commit_shards(log, shards, replace=True, record=record)
    for file in Path(path).rglob("*"):
        os.utime(file, OLD)
    return pin(path)


@pytest.fixture
def places(tmp_path):
    return {name: str(tmp_path / name) for name in tables.TABLES}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    connect(uri)
    return uri


def start_run(*pins):
    client = MlflowClient()
    experiment = client.create_experiment(f"experiment {time.time_ns()}")
    run = client.create_run(experiment).info.run_id
    client.log_inputs(run, [record_input(each, "training") for each in pins])
    return run


def test_runs_and_later_tables_need_versions(store, places):
    documents = [put_version(places["documents"], "documents") for _ in range(4)]
    assert [each.version for each in documents] == [1, 2, 3, 4]
    sequences = [
        put_version(places["sequences"], "sequences", facts={"documents": made_from.identity()})
        for made_from in (documents[0], documents[1], documents[2])
    ]
    run = start_run(sequences[0], documents[0])
    needs = find_needs(places, (each for each in list_inputs() if each["run_id"] == run))
    assert needs["sequences"] == {1: [f"run {run[:8]}"]}
    # Version 2 was needed by sequences that nothing needs; version 4 is the newest, which is always kept.
    assert needs["documents"] == {1: [f"run {run[:8]}", "sequences version 1"], 3: ["sequences version 3"]}
    assert needs["predictions"] == needs["quarantine"] == {}


def test_every_table_of_the_configuration_is_listed():
    """Those of conf/base.yaml that lie in the root, and no folder of files that are no table."""
    base = yaml.safe_load((CONF / "base.yaml").read_text(encoding="utf-8"))
    folders = {("dataset", "tokenizers"), ("finetune", "folder"), ("finetune", "searches")}
    expected = {
        name: stage
        for stage in ("corpus", "dataset", "finetune", "registry", "scoring")
        for name, value in base[stage].items()
        if isinstance(value, str) and value.startswith("${root}/") and (stage, name) not in folders
    }
    assert len(expected) > 10
    assert expected == tables.TABLES


def test_a_run_needs_its_mixture(store, places):
    pins = [put_version(places[name], name) for name in ("sequences", "mixtures")]
    put_version(places["mixtures"], "mixtures")
    run = start_run(*pins)
    needs = find_needs(places, (each for each in list_inputs() if each["run_id"] == run))
    assert needs["mixtures"] == {1: [f"run {run[:8]}"]}


def test_evidence_of_the_documents_outlives_a_run_that_stopped(places):
    """The run wrote evidence, and no documents: corpus.near_duplicates.on_alarm is fail."""
    put_version(places["documents"], "documents", fingerprint="first")
    for made_from in ("first", "second"):
        put_version(places["duplicates"], "near_duplicates", fingerprint=made_from)
    assert find_needs(places, iter(()))["duplicates"] == {1: ["documents version 1"]}


def test_tables_that_nobody_asked_for_are_not_listed(store, tmp_path, capsys):
    configs = load(overrides=["recipe=tickets", f"root={tmp_path}", f"tracking.uri={store}"]).sections(
        {name: stage.Config for name, stage in STAGES.items()}
    )
    tables.show(configs, delete=False, min_age_hours=168)
    shown = capsys.readouterr().out
    assert "documents: no table yet" in shown
    assert "contamination" not in shown
    put_version(f"{tmp_path}/contamination", "contamination")
    tables.show(configs, delete=False, min_age_hours=168)
    assert "contamination: version 1 at" in capsys.readouterr().out


def test_a_deleted_run_still_needs_its_rows(store, places):
    run = start_run(put_version(places["documents"], "documents"))
    MlflowClient().delete_run(run)
    assert MlflowClient().get_run(run).info.lifecycle_stage == "deleted"
    needs = find_needs(places, (each for each in list_inputs() if each["run_id"] == run))
    assert needs["documents"] == {1: [f"run {run[:8]}"]}


def test_a_run_of_a_table_that_was_created_again_needs_nothing(store, places):
    run = start_run(put_version(f"{places['documents']}-before", "documents"))
    put_version(places["documents"], "documents")
    needs = find_needs(places, (each for each in list_inputs() if each["run_id"] == run))
    assert needs["documents"] == {}


def test_values_and_sizes_come_from_the_log(tmp_path):
    path = str(tmp_path / "numbers")
    put_version(path, "numbers", numbers=[7])
    assert (list_values(path, "number"), list_values(path, "absent")) == (range(7, 8), range(0))
    put_version(path, "numbers", numbers=[4, 6])
    assert list_values(path, "number") == range(4, 7)
    files = list(Path(path).glob("w-*/*.parquet"))
    size = measure_table(path, keep=[], min_age_hours=1)
    assert (size.num_rows, size.num_bytes_stored) == (2, sum(file.stat().st_size for file in files))
    assert size.num_bytes_stored > size.num_bytes > 0


def test_only_files_that_nothing_needs_are_deleted(store, places, capsys):
    put_version(places["documents"], "documents", numbers=[1, 2])
    _, (orphan,) = write(plan_for(places["documents"], folder="w-killed"), batch([3]))
    os.utime(Path(places["documents"], orphan.path), OLD)

    def show(**options):
        for name, place in places.items():
            for line in tables.describe(name, place, {}, min_age_hours=168, **options):
                print(line)
        return capsys.readouterr().out

    shown = show(delete=False)
    assert "documents: version 1 at" in shown
    assert "2 rows, 0.0 MB" in shown
    assert "not needed: 1 files, 0.0 MB; --delete deletes them" in shown
    assert "quarantine: no table yet" in shown
    assert Path(places["documents"], orphan.path).exists()
    assert "deleted 1 files" in show(delete=True)
    assert not Path(places["documents"], orphan.path).exists()
    assert "not needed: 0 files" in show(delete=False)
    assert pin(places["documents"]).num_rows == 2

"""Flows whose tables all have names in a catalog: the same rows, pins and weights as by path."""

import pytest

from jobs.run import STAGES
from jobs.shell import settings as configuration
from pipelines.catalog import find_location
from pipelines.finetune.results import read_result
from pipelines.named import STAGING
from pipelines.paths import is_table_name
from pipelines.pin import pin
from pipelines.tables import (
    DOCUMENTS,
    NEAR_DUPLICATES,
    PREDICTIONS,
    QUARANTINE,
    SEQUENCES,
    SIGNALS,
    SIGNATURES,
    SIMILARITIES,
)
from tests.conftest import flow_overrides, write_tickets

pytestmark = pytest.mark.slow

FLOW = {
    "corpus.documents": DOCUMENTS,
    "corpus.quarantine": QUARANTINE,
    "dataset.sequences": SEQUENCES,
    "scoring.predictions": PREDICTIONS,
}
MEASURED = {
    "corpus.documents": DOCUMENTS,
    "corpus.quarantine": QUARANTINE,
    "corpus.signals": SIGNALS,
    "corpus.duplicates": NEAR_DUPLICATES,
    "corpus.signatures": SIGNATURES,
    "corpus.similarities": SIMILARITIES,
}
MEASURING = ("corpus.near_duplicates.enabled=true", "corpus.rules.presets=[gopher_repetition@paper]")


@pytest.fixture
def schema(spark, tmp_path):
    """A schema (database) of Spark's catalog, and a staging folder."""
    name = "by_name"
    spark.sql(f"CREATE DATABASE {name} LOCATION 'file:{tmp_path}/{name}'")
    spark.conf.set(STAGING, str(tmp_path / "staging"))
    yield name
    spark.conf.unset(STAGING)
    spark.sql(f"DROP DATABASE {name} CASCADE")


def name_tables(schema, tables):
    return [f"{key}={schema}.{key.partition('.')[2]}" for key in tables]


def load_configs(folder, *overrides):
    settings = configuration.load(overrides=[*flow_overrides(folder), *overrides])
    return {name: settings.section(name, stage.Config) for name, stage in STAGES.items()}


def place_of(configs, key):
    stage, _, field = key.partition(".")
    return getattr(configs[stage], field)


def require_equal_tables(spark, tables, named, by_path):
    for key, table in tables.items():
        name, path = place_of(named, key), place_of(by_path, key)
        assert (is_table_name(name), is_table_name(path)) == (True, False)
        pinned, expected = pin(name), pin(path)
        assert (pinned.digest, pinned.num_rows) == (expected.digest, expected.num_rows), key
        rows = table.read(spark, name, pinned.version)
        assert table.digest(rows) == (expected.digest, expected.num_rows), key


def test_five_stages_by_name_give_what_they_give_by_path(spark, flow, schema, tmp_path):
    write_tickets(tmp_path / "raw")
    configs = load_configs(tmp_path, *name_tables(schema, FLOW))
    folders = {}
    for name, stage in STAGES.items():
        assert stage.main(configs[name]).ran
        plan = stage.plan(configs[name])
        assert plan.up_to_date, (name, plan.why)
        if name == "finetune":
            for side, its in (("named", plan), ("by path", stage.plan(flow.configs[name]))):
                folders[side] = its.inputs[0].folder
    require_equal_tables(spark, FLOW, configs, flow.configs)
    sequences = configs["finetune"].sequences
    assert (sequences, find_location(sequences)) == (f"{schema}.sequences", f"{tmp_path}/{schema}/sequences")
    results = {side: read_result(folder) for side, folder in folders.items()}
    assert results["named"]["weights"] == results["by path"]["weights"]
    assert not [*(tmp_path / "staging").rglob("*.parquet")]


def test_a_corpus_that_measures_gives_by_name_what_it_gives_by_path(spark, schema, tmp_path):
    write_tickets(tmp_path / "raw")
    words = " ".join(f"word{number}" for number in range(60))
    with (tmp_path / "raw" / "train.csv").open("a", encoding="utf-8") as file:
        file.writelines(f"{words} {last},card_arrival\n" for last in ("one", "two"))
    named = load_configs(tmp_path, *MEASURING, *name_tables(schema, MEASURED))
    by_path = load_configs(tmp_path, *MEASURING)
    for configs in (named, by_path):
        assert STAGES["corpus"].main(configs["corpus"]).ran
    require_equal_tables(spark, MEASURED, named, by_path)
    assert pin(place_of(named, "corpus.similarities")).num_rows > 0  # at least the two texts that share words
    assert STAGES["corpus"].plan(named["corpus"]).up_to_date

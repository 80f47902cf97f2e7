"""The whole stage with 1 and 7 partitions; the soak adds 40."""

import random

import pytest

from jobs import corpus
from pipelines.tables import SIGNATURES, SIMILARITIES
from tests.corpus.increments import NEAR, describe_tables, list_screens, make_config, write_batch

STORED = {"signatures": SIGNATURES, "similarities": SIMILARITIES}


@pytest.fixture
def partitioned(spark):
    """A function that sets the partitions of a shuffle, which Spark then may not join to fewer."""
    names = ("spark.sql.shuffle.partitions", "spark.sql.adaptive.coalescePartitions.enabled")
    usual = {name: spark.conf.get(name) for name in names}

    def change(num_partitions):
        for name, value in zip(names, (str(num_partitions), "false"), strict=True):
            spark.conf.set(name, value)

    yield change
    for name, value in usual.items():
        spark.conf.set(name, value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "numbers", [(1, 7), pytest.param((1, 7, 40), marks=pytest.mark.soak)], ids=["two", "three"]
)
def test_all_tables_are_equal_with_any_number_of_partitions(spark, tmp_path, partitioned, numbers):
    draw, knobs, found = random.Random(9), [*list_screens(tmp_path), *NEAR], {}
    for number in range(2):
        write_batch(tmp_path, number, draw)
    for num_partitions in numbers:
        partitioned(num_partitions)
        config = make_config(tmp_path, f"lake{num_partitions}", *knobs)
        corpus.main(config)
        assert spark.range(9).repartition("id").rdd.getNumPartitions() == num_partitions
        # What is compared is read without dozens of tasks.
        partitioned(2)
        found[num_partitions] = describe_tables(spark, config) | {
            name: table.digest(table.read(spark, getattr(config, name))) for name, table in STORED.items()
        }
    assert all(each == found[1] for each in found.values())
    dropped = found[1]["facts"][0]["dropped"]
    assert {"exact_duplicate", "near_duplicate", "contaminated"} <= dropped.keys()
    assert any(reason.startswith(("gopher", "word_list")) for reason in dropped)
    assert all(num_rows for _, num_rows in (found[1][name] for name in STORED))

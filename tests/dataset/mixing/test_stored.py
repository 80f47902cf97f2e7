"""The table of mixtures, and the counts that a plan is made from."""

from dataclasses import replace

import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable

from pipelines.dataset.mixing.count import count_sources, plan_on_table
from pipelines.dataset.mixing.rules import Mixture
from pipelines.dataset.mixing.stored import read_mixture, write_mixture
from pipelines.dataset.source_facts import describe_sources
from tests.sequence_tables import make_rows, write_sequences_table

NAMES = ["source 0", "source 1"]


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    splits = {"train": make_rows("train", 60, num_groups=4), "test": make_rows("test", 9, num_groups=2)}
    return splits, write_sequences_table(str(tmp_path_factory.mktemp("mixing") / "sequences"), splits)


def make_plan(pin, mixture, num_epochs=2.0):
    return plan_on_table(mixture, pin, pin.path, num_epochs=num_epochs, global_batch=4)


def test_sources_of_a_split_are_counted_by_rows_and_tokens(sequences):
    splits, pin = sequences
    counts = count_sources(pin.path, table_id=pin.table_id, version=pin.version, split="train")
    assert [count.source for count in counts] == NAMES
    for count in counts:
        rows = [row["num_tokens"] for row in splits["train"] if row["source"] == count.source]
        assert (count.num_sequences, count.num_tokens) == (len(rows), sum(rows))
        assert len(rows) > 3


def test_a_plan_from_the_facts_is_that_from_the_files_and_opens_none(sequences):
    splits, pin = sequences
    counts = {source: {"sequences": 0, "tokens": 0} for source in NAMES}
    for row in splits["train"]:
        counts[row["source"]]["sequences"] += 1
        counts[row["source"]]["tokens"] += row["num_tokens"]
    known = replace(pin, path="/no/table", facts={**pin.facts, **describe_sources({"train": counts})})
    mixture = Mixture(shares={"source 0": 0.7})
    assert make_plan(known, mixture).sources == make_plan(pin, mixture).sources
    with pytest.raises(FileNotFoundError):
        make_plan(replace(known, facts=pin.facts), mixture)


def test_no_mixture_makes_no_plan_and_equal_ones_have_equal_ids(sequences):
    _, pin = sequences
    assert make_plan(pin, Mixture()) is None
    plan = make_plan(pin, Mixture(shares={"source 0": 0.7}))
    assert plan == make_plan(pin, Mixture(shares={"source 0": 0.7}))
    assert plan.id != make_plan(pin, Mixture(shares={"source 0": 0.6})).id
    with pytest.raises(ValueError, match="names source web, and the train split has only source 0, source 1"):
        make_plan(pin, Mixture(shares={"web": 0.7}))


def test_a_mixture_is_written_once_and_read_back_without_spark(spark, sequences, tmp_path):
    _, pin = sequences
    path = str(tmp_path / "mixtures")
    first = Mixture(shares={"source 0": 0.7}, max_repeats=9)
    second = Mixture(temperature=5.0, max_sequences={"source 1": 3})
    plans = [make_plan(pin, mixture) for mixture in (first, second)]
    written = write_mixture(spark, path, plans[0], first, pin)
    again = write_mixture(spark, path, plans[1], second, pin)
    assert again.version > written.version
    assert write_mixture(spark, path, plans[0], first, pin) == written  # the commit of the first time
    rows = DeltaTable(path).to_pyarrow_table()
    assert rows.num_rows == 4
    mine = rows.filter(pc.equal(rows["mixture"], plans[0].id)).sort_by("source").to_pylist()
    assert [row["asked_share"] for row in mine] == [0.7, None]
    assert [row["max_repeats"] for row in mine] == [9, 9]
    assert {row["sequences_version"] for row in mine} == {pin.version}
    for made, plan in ((written, plans[0]), (again, plans[1])):
        place = {"table_id": made.table_id, "version": made.version}
        assert read_mixture(path, **place, mixture=plan.id) == plan
    with pytest.raises(LookupError, match=f"no mixture {plans[1].id} in version {written.version}"):
        read_mixture(path, table_id=written.table_id, version=written.version, mixture=plans[1].id)

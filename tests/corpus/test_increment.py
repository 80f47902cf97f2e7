"""Increments of a corpus: after each batch, the tables are those of a full run over all files."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from pyspark.sql import functions as F

from jobs import corpus
from pipelines import arrow_rows
from pipelines.corpus import write
from pipelines.corpus.increment import Earlier, add_facts, open_earlier
from pipelines.corpus.relabel import Relabelled
from pipelines.pin import open_log, pin, version_of
from pipelines.tables import DOCUMENTS
from tests.conftest import count_jobs
from tests.corpus.increments import (
    NEAR,
    describe_tables,
    list_screens,
    make_config,
    make_text,
    make_variant,
    write_batch,
    write_file,
)


def run(config):
    """The reason that the stage gives for its work."""
    outcome = corpus.main(config)
    assert outcome.ran
    return outcome.why


def describe_full_run(spark, folder, *overrides):
    """The tables of a full run over the files that there are now."""
    config = make_config(folder, f"full{len(list(folder.glob('full*')))}", *overrides)
    run(config)
    return describe_tables(spark, config)


def read_labels(spark, config):
    rows = DOCUMENTS.read(spark, config.documents).select("doc_id", "duplicate_of", "drop_reason").collect()
    return {row.doc_id: (row.duplicate_of, row.drop_reason) for row in rows}


HELD_ROWS = {"driver": arrow_rows.MOST_HELD_ROWS, "spark": 0}
"""Lake -> how many earlier rows its increments may hold in the driver's memory; others stay with Spark."""


@pytest.fixture(scope="module")
def grown(spark, tmp_path_factory):
    """Two lakes that grew with the same three batches, and the tables of a full run over all files."""
    folder, draw = tmp_path_factory.mktemp("grown"), random.Random(5)
    # Near duplicates of five texts: their buckets have more members than leaders.
    knobs = [*list_screens(folder), *NEAR, "corpus.near_duplicates.max_leaders=2"]
    lakes = {name: Grown(make_config(folder, name, *knobs)) for name in HELD_ROWS}
    for number in range(3):
        write_batch(folder, number, draw)
        for name, lake in lakes.items():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(arrow_rows, "MOST_HELD_ROWS", HELD_ROWS[name])
                patch.setattr(write, "open_earlier", lake.open_and_note)
                lake.run(spark, number)
    return SimpleNamespace(lakes=lakes, full=describe_full_run(spark, folder, *knobs))


class Grown:
    """A lake: its configuration, and what its increments did."""

    def __init__(self, config) -> None:
        self.config, self.opened, self.reasons, self.near = config, [], [], []
        self.moves, self.changed = Counter(), Counter()

    def open_and_note(self, *given) -> Earlier:
        self.opened.append(open_earlier(*given))
        return self.opened[-1]

    def run(self, spark, number):
        """The stage after batch `number`. Before the second one, another program maintains the tables."""
        if number == 0:
            self.reasons.append(run(self.config))
            return
        before, version = read_labels(spark, self.config), pin(self.config.documents).version
        if number == 1:
            # It moves the rows to other files, and half of the signatures of earlier texts must be computed
            # again: from the table documents. So all members are looked at.
            spark.sql(f"OPTIMIZE delta.`{self.config.documents}`")
            spark.sql(f"DELETE FROM delta.`{self.config.signatures}` WHERE content_hash < '8'")
        self.reasons.append(run(self.config).replace(f"documents version {version}", "the version before"))
        after = read_labels(spark, self.config)
        self.moves.update((label[1], after[doc_id][1]) for doc_id, label in before.items())
        self.changed.update(after[doc_id] != label for doc_id, label in before.items())
        near = pin(self.config.duplicates).facts
        num_members = sum(label == (None, None) or label[1] == "near_duplicate" for label in after.values())
        self.near.append((near["looked_at"], near["crowded_buckets"], num_members))
        assert not corpus.main(self.config).ran


@pytest.mark.slow
@pytest.mark.parametrize("held_by", HELD_ROWS)
def test_each_increment_equals_a_full_run(spark, grown, held_by):
    lake = grown.lakes[held_by]
    found = describe_tables(spark, lake.config)
    assert found == grown.full
    assert lake.reasons == ["quarantine: no table yet", *["2 new files since the version before"] * 2]
    # The interesting cases occurred: earlier rows changed, rules dropped texts, and keys repeated.
    assert [earlier.held is not None for earlier in lake.opened] == [held_by == "driver"] * 2
    assert [looked_at == num_members for looked_at, _, num_members in lake.near] == [True, False]
    assert all(looked_at > 10 < crowded for looked_at, crowded, _ in lake.near)
    facts = found["facts"][0]
    assert lake.changed[True] > 5 < lake.changed[False]
    assert lake.moves[None, "near_duplicate"] > 1 < lake.moves[None, "exact_duplicate"]
    assert facts["dropped"]["exact_duplicate"] > 10
    assert any(reason.startswith("gopher") for reason in facts["dropped"])
    assert facts["dropped"]["contaminated"] > facts["contamination"]["exam"]["records_hit"] == 2
    assert found["word_matches"][1] >= facts["dropped"]["word_list/rude/max_matches"] > 5
    assert facts["quarantine"]["duplicate key"] > 5


@pytest.mark.slow
def test_a_near_copy_relabels_an_earlier_text_that_has_no_exact_copy(spark, tmp_path):
    config = make_config(tmp_path, "lake", *NEAR)
    write_file(tmp_path, "a", "1")
    write_file(tmp_path, "b", "1", *({"text": make_variant(n, 1), "split": "train"} for n in (1, 5, 9)))
    run(config)
    write_file(tmp_path, "b", "2", {"text": make_variant(1, 1) + " behind", "split": "train"})
    run(config)
    reasons = Counter(reason for _, reason in read_labels(spark, config).values())
    assert reasons == {None: 3, "near_duplicate": 1}
    assert describe_tables(spark, config) == describe_full_run(spark, tmp_path, *NEAR)
    # Nor is there anything to relabel. A query costs more than its work here, so their number is the cost.
    write_file(tmp_path, "b", "3", {"text": make_text(1), "split": "train"})
    before = count_jobs(spark)
    run(config)
    assert count_jobs(spark) - before <= 30  # 48, if each answer of a table were a query
    assert describe_tables(spark, config) == describe_full_run(spark, tmp_path, *NEAR)


@pytest.mark.slow
def test_a_key_in_an_earlier_name_leads_to_a_full_run(spark, tmp_path):
    config = make_config(tmp_path)
    for source in ("a", "b"):  # the first delivery has no records
        write_file(tmp_path, source, "0")
    run(config)
    write_file(tmp_path, "a", "2", {"text": "later", "key": "k", "split": "train"})
    write_file(tmp_path, "b", "1", {"text": "other", "split": "train"})
    assert "2 new files" in run(config)
    write_file(tmp_path, "a", "1", {"text": "sooner", "key": "k", "split": "train"})
    run(config)
    assert [row.text for row in DOCUMENTS.read(spark, config.documents).where("source = 'a'").collect()] == [
        "sooner"
    ]
    assert describe_tables(spark, config) == describe_full_run(spark, tmp_path)


def undo_commits(spark, config, names):
    """Take the newest commit of tables away, as if the driver had been killed before it. The files of the
    rows stay, as they do then."""
    spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()  # it remembers the commits
    for name in names:
        path = getattr(config, name)
        (Path(path) / "_delta_log" / f"{version_of(path):020d}.json").unlink()


@pytest.mark.slow
def test_runs_after_kills_add_rows_once(spark, tmp_path):
    config, split = make_config(tmp_path), {"split": "train"}
    for source, key in (("a", "k1"), ("b", None)):
        write_file(tmp_path, source, "1", {"text": make_text(1), "key": key, **split}, b"broken")
    run(config)
    # In the order of their commits: quarantine, ledger, documents.
    for number, (num_undone, with_more) in enumerate([(2, False), (1, True)], 2):
        write_file(tmp_path, "a", f"{number}", {"text": make_text(1), "key": f"{number}", **split}, b"no")
        run(config)
        undo_commits(spark, config, ["documents", "ledger"][:num_undone])
        if with_more:
            write_file(tmp_path, "a", f"{number}+", {"text": "more", "key": f"{number}+", **split}, b"no")
        assert f"{1 + with_more} new file" in run(config)
    found = describe_tables(spark, config)
    assert found == describe_full_run(spark, tmp_path)
    assert found["documents"][1] == found["quarantine"][1] == 2 + 2 + 1


COMMITS = ("signatures", "similarities", "quarantine", "signals", "word_matches", "contamination")
COMMITS += ("duplicates", "ledger", "documents")


def find_commit_times(config):
    logs = {name: Path(getattr(config, name)) / "_delta_log" for name in COMMITS}
    return {name: max(file.stat().st_mtime_ns for file in log.glob("*.json")) for name, log in logs.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "boundaries", [(1,), pytest.param(range(len(COMMITS)), marks=pytest.mark.soak)], ids=["one", "all"]
)
def test_a_run_after_a_kill_between_two_commits_gives_the_same_tables(spark, grown, boundaries):
    config = grown.lakes["driver"].config
    times = find_commit_times(config)
    assert tuple(sorted(times, key=times.get)) == COMMITS
    for first in boundaries:
        before = find_commit_times(config)
        undo_commits(spark, config, COMMITS[first:])
        assert run(config).startswith("2 new files")
        assert describe_tables(spark, config) == grown.full, COMMITS[first:]
        # What was there before the kill is not written again.
        after = find_commit_times(config)
        assert {name for name in COMMITS if after[name] != before[name]} == {*COMMITS[first:]}


def read_texts(spark, config):
    return sorted(row.text for row in DOCUMENTS.read(spark, config.documents).collect())


@pytest.mark.slow
def test_kept_documents_outlive_their_files(spark, tmp_path):
    keep, split = make_config(tmp_path, changed_files="keep"), {"split": "train"}
    first = write_file(tmp_path, "a", "1", {"text": "one", "key": "1", **split})
    write_file(tmp_path, "a", "2", {"text": "two", "key": "2", **split})
    write_file(tmp_path, "b", "1", {"text": "two", **split})
    run(keep)
    first.unlink()
    assert not corpus.main(keep).ran
    third = write_file(tmp_path, "a", "3", {"text": "three", "key": "3", **split})
    assert run(keep).endswith("1 file disappeared (a: 1): their documents are kept")
    assert read_texts(spark, keep) == ["one", "three", "two", "two"]
    # The run was killed, and its file is gone: the other tables go back to the documents that are there.
    undo_commits(spark, keep, ["documents"])
    third.unlink()
    run(keep)
    assert describe_tables(spark, keep)["quarantine"][1] == 0
    assert (read_texts(spark, keep), corpus.main(keep).ran) == (["one", "two", "two"], False)
    with pytest.raises(ValueError, match=r"1 file disappeared \(a: 1\)"):
        corpus.main(make_config(tmp_path, changed_files="stop"))
    run(make_config(tmp_path))
    assert read_texts(spark, keep) == ["two", "two"]


def test_rows_of_a_table_with_a_name_are_relabelled_in_its_folder(spark, tmp_path):
    """On S3, a table of Spark's own catalog has a name, and the log has its folder: `catalog.find_folder`."""
    path, schema = str(tmp_path / "documents"), DOCUMENTS.arrow_schema
    rows = [{"doc_id": name, "drop_reason": None} for name in "ab"]
    nullable = pa.schema([column.with_nullable(True) for column in schema])
    write_deltalake(path, pa.Table.from_pylist(rows, nullable))
    log = open_log(path)
    earlier = Earlier(
        pin=replace(log.pin(), path="lake.documents"),
        log=log,
        documents=spark.createDataFrame([], DOCUMENTS.schema),
    )
    labels = spark.createDataFrame(
        [("b", "a", "exact_duplicate")], "doc_id STRING, new_duplicate_of STRING, new_drop_reason STRING"
    )
    changed = Relabelled(
        earlier=earlier,
        labels=labels.withColumn("is_changed", F.lit(True)),
        shards=tuple(log.list_shards()),
        num_rows=2,
    ).read_changed()
    found = changed.select("doc_id", "duplicate_of", "drop_reason").collect()
    assert sorted(map(tuple, found)) == [("a", None, None), ("b", "a", "exact_duplicate")]


def test_facts_that_are_no_sums_are_those_of_the_last_run():
    limits = {"on_hit": "drop", "drop_from": ["train"], "ngram": 13}
    before = {"records": 4, "kept": {"train": 4}, "dropped": {}, "report": "/page"}
    before |= {"contamination": {"exam": {"records": 9, "documents": 2}}, "decontamination": limits}
    found = {"records": 1, "kept": {"train": 1}, "dropped": {}}
    found |= {"contamination": {"exam": {"records": 9, "documents": 3}}, "decontamination": limits}
    assert add_facts(before, found, []) == {**found, "records": 5, "kept": {"train": 5}}

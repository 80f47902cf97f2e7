"""The stage on the change feed of a table: increments where rows are inserted, full runs where others change.

The twin of an increment is a full run on the same landed rows, by another lake.
"""

import pytest

from jobs import corpus
from jobs.shell.stream import follow
from pipelines.corpus.listing import NoFilesError
from pipelines.corpus.rules import leave_out_unset
from pipelines.tables import DOCUMENTS, QUARANTINE
from tests.corpus.feeds import insert, make_config, make_source
from tests.corpus.increments import describe_tables


def read_documents(spark, config) -> list[tuple]:
    """(text, drop_reason) of the documents."""
    rows = DOCUMENTS.read(spark, config.documents).orderBy("text").collect()
    return [(row.text, row.drop_reason) for row in rows]


def describe_ids(spark, config) -> set[tuple]:
    """What does not depend on where rows were landed."""
    rows = DOCUMENTS.read(spark, config.documents).collect()
    return {(row.doc_id, row.text, row.split, row.drop_reason, row.duplicate_of) for row in rows}


def test_inserted_rows_are_an_increment_equal_to_a_full_run(spark, tmp_path):
    table, config = tmp_path / "table", make_config(tmp_path, "grown")
    partitions = {"ddl": "id INT, text STRING, day STRING", "partition_by": ("day",)}
    insert(spark, table, (1, "one", "一"), (2, None, "一"), (3, "三 three", "2/二"), **partitions)
    first = corpus.main(config)
    assert first.ran
    insert(spark, table, (4, "four", "一"), (5, "one", "3"), (6, None, None), **partitions)
    insert(spark, table, (1, "a key of before", "3"), (7, "七", "3"), **partitions)
    outcome = corpus.main(config)
    assert "new file" in outcome.why, outcome.why
    again = corpus.main(config)
    assert not again.ran

    whole = make_config(tmp_path, "whole", options=", land: false")
    corpus.main(whole)
    grown = describe_tables(spark, config)
    assert grown == describe_tables(spark, whole)
    kept = [(text, reason) for text, reason in read_documents(spark, config) if reason is None]
    assert kept == [(text, None) for text in ("four", "one", "七", "三 three")]
    reasons = [row.reason for row in QUARANTINE.read(spark, config.quarantine).collect()]
    assert sorted(reason.partition(":")[0] for reason in reasons) == ["duplicate key", "text", "text"]


def test_updated_and_deleted_rows_give_the_documents_of_the_table(spark, tmp_path):
    table, config = tmp_path / "table", make_config(tmp_path, "lake")
    insert(spark, table, *((number, f"text {number}") for number in range(6)))
    corpus.main(config)
    insert(spark, table, (6, "text 6"))
    corpus.main(config)
    spark.sql(f"UPDATE delta.`{table}` SET text = '新' WHERE id = 1")
    spark.sql(f"DELETE FROM delta.`{table}` WHERE id IN (2, 6)")
    outcome = corpus.main(config)
    assert "2 files disappeared" in outcome.why, outcome.why
    texts = ["text 0", "text 3", "text 4", "text 5", "新"]
    assert read_documents(spark, config) == [(text, None) for text in texts]
    once = make_config(tmp_path, "once", path="landed_once")
    corpus.main(once)
    assert describe_ids(spark, config) == describe_ids(spark, once), "ids are those of the keys"
    assert not corpus.main(config).ran


def test_documents_of_deleted_rows_can_be_kept(spark, tmp_path):
    table, config = tmp_path / "table", make_config(tmp_path, "lake", "corpus.changed_files=keep")
    insert(spark, table, (1, "one"), (2, "two"))
    corpus.main(config)
    spark.sql(f"DELETE FROM delta.`{table}` WHERE id = 1")
    insert(spark, table, (3, "three"))
    outcome = corpus.main(config)
    assert "1 new file" in outcome.why, outcome.why
    assert [text for text, _ in read_documents(spark, config)] == ["one", "three", "two"]


def test_a_stream_follows_the_table(spark, tmp_path):
    table, config, outcomes = tmp_path / "table", make_config(tmp_path, "lake"), []

    def wait(seconds):
        number = len(waits)
        waits.append(seconds)
        if number == 4:
            raise KeyboardInterrupt
        if number in (0, 2):  # no table yet; then a round without news
            insert(spark, table, (number, f"text {number}"))

    waits: list[float] = []
    with pytest.raises(KeyboardInterrupt):
        follow(lambda: corpus.main(config), 1.0, outcomes.append, wait)
    assert [outcome.ran for outcome in outcomes] == [True, True]
    assert [text for text, _ in read_documents(spark, config)] == ["text 0", "text 2"]


def test_a_dry_run_lands_nothing(spark, tmp_path):
    insert(spark, tmp_path / "table", (1, "one"))
    with pytest.raises(NoFilesError, match="a run without --dry-run"):
        corpus.plan(make_config(tmp_path, "dry"))
    assert not (tmp_path / "landed").exists()


def test_to_land_or_not_changes_no_fingerprint(tmp_path):
    settings = [
        leave_out_unset(make_config(tmp_path, "lake", options=each).model_dump(include={"sources", "rules"}))
        for each in ("", ", land: false", ", land: true", ", starting_version: 3")
    ]
    assert settings[0] == settings[1] == settings[2] != settings[3]
    assert make_source(tmp_path).request.options.land

"""Writers that commit to one table at the same time, in threads. Real drivers are in test_writers."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from deltalake import DeltaTable

from pipelines.delta import Table
from pipelines.pin import Pin, pin
from pipelines.tables import QUARANTINE
from tests.small_tables import broken_rows


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "quarantine")


def write_at_once(monkeypatch, *writes) -> list:
    """Outcomes of writes that have all read the log before the first of them commits."""
    everybody, waited, commit = threading.Barrier(len(writes)), threading.local(), Table._commit

    def commit_together(*arguments, **named):
        if not hasattr(waited, "once"):
            waited.once = everybody.wait(60)
        commit(*arguments, **named)

    monkeypatch.setattr(Table, "_commit", commit_together)
    with ThreadPoolExecutor(len(writes)) as pool:
        outcomes = [pool.submit(write) for write in writes]
    return [outcome.exception() or outcome.result() for outcome in outcomes]


def test_two_overwrites_at_once_keep_one_and_fail_one(spark, path, monkeypatch):
    QUARANTINE.overwrite(broken_rows(spark, range(2)), path, fingerprint="before", facts={})
    rows = {"a": broken_rows(spark, range(3)), "b": broken_rows(spark, range(5))}
    outcomes = write_at_once(
        monkeypatch,
        *[
            partial(QUARANTINE.overwrite, each, path, fingerprint=name, facts={})
            for name, each in rows.items()
        ],
    )
    (won,), (lost,) = (
        [outcome for outcome in outcomes if isinstance(outcome, kind)] for kind in (Pin, Exception)
    )
    assert "quarantine at" in str(lost)
    assert "another writer changed the rows meanwhile; run the stage again" in str(lost)
    assert won == pin(path)
    assert QUARANTINE.read(spark, path).count() == won.num_rows


@pytest.mark.parametrize("exists", [False, True])
def test_two_appends_at_once_add_every_key_once(spark, path, monkeypatch, exists):
    if exists:
        QUARANTINE.append(broken_rows(spark, [0]), path, fingerprint="before", facts={})
    pins = write_at_once(
        monkeypatch,
        *[
            partial(QUARANTINE.append, broken_rows(spark, offsets), path, fingerprint=name, facts={})
            for name, offsets in (("a", [1, 2, 3]), ("b", [3, 4]))
        ],
    )
    offsets = [row.offset for row in QUARANTINE.read(spark, path).collect()]
    assert sorted(offsets) == [*([0] if exists else []), 1, 2, 3, 4]
    assert (
        sum(each.num_rows for each in pins) == 4
    )  # the later one records the rows that it added, not those it was given
    assert sorted(each.fingerprint for each in pins) == ["a", "b"]


def test_appends_beside_maintenance_add_every_key_once(spark, path, monkeypatch):
    # A maintenance commit between two reads of the log: other versions, the same rows.
    QUARANTINE.append(broken_rows(spark, [0]), path, fingerprint="before", facts={})
    commit, others = Table._commit, []

    def commit_late(*arguments, made_from, **named):
        write = partial(commit, *arguments, made_from=made_from, **named)
        if made_from == "a" and not others:
            spark.sql(f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES ('note' = 'x')")
            others.append(ThreadPoolExecutor(1).submit(append, "b", [3, 4]))
            assert b_read_the_log.wait(60)
            write()
            a_committed.set()
            return
        if made_from == "b" and not b_read_the_log.is_set():
            b_read_the_log.set()
            assert a_committed.wait(60)
        write()

    def append(name, offsets):
        return QUARANTINE.append(broken_rows(spark, offsets), path, fingerprint=name, facts={})

    b_read_the_log, a_committed = threading.Event(), threading.Event()
    monkeypatch.setattr(Table, "_commit", commit_late)
    # The one that commits second records the rows that it added, not those it was given.
    assert append("a", [1, 2, 3]).num_rows + others[0].result(120).num_rows == 4
    assert sorted(row.offset for row in QUARANTINE.read(spark, path).collect()) == [0, 1, 2, 3, 4]


def test_two_drivers_of_one_stage_leave_one_copy(spark, path, monkeypatch):
    write = partial(QUARANTINE.overwrite, path=path, fingerprint="a", facts={})
    first, second = write_at_once(
        monkeypatch,
        partial(write, broken_rows(spark, range(3))),
        partial(write, broken_rows(spark, range(3))),
    )
    assert first == second == pin(path)
    present = {file for file in Path(path).rglob("*.parquet") if "_delta_log" not in file.parts}
    assert present == {Path(path, file) for file in DeltaTable(path).get_add_actions()["path"].to_pylist()}

"""Commits, logs and retention of tables, written without Spark."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from pipelines.commit import (
    WRITER_FEATURES,
    ConflictError,
    commit_shards,
    create_table,
    require_writable,
    set_properties,
)
from pipelines.contract import PROPERTIES
from pipelines.keys import write_key_file
from pipelines.pin import open_log, pin, transaction_name
from pipelines.retention import delete_unpinned
from tests.test_shards import batch, plan_for, write

SPARK_SCHEMA = json.dumps(
    {
        "type": "struct",
        "fields": [
            {"name": "number", "type": "long", "nullable": True, "metadata": {}},
            {"name": "split", "type": "string", "nullable": True, "metadata": {}},
        ],
    }
)


def create(path):
    create_table(
        path, SPARK_SCHEMA, name="numbers", description="", partition_by=[], properties=dict(PROPERTIES)
    )


def record_of(name, number=0):
    return {
        "table": "numbers",
        "digest": "d",
        "num_rows": 1,
        "fingerprint": name,
        "facts": {},
        "last_foreign": -1,
        "number": number,
        "folder": f"w-{name}",
    }


def commit(path, name, *, log=None, replace=True):
    _, shards = write(plan_for(path, folder=f"w-{name}"), batch([1]))
    log = log or open_log(path)
    commit_shards(log, shards, replace=replace, record=record_of(name, number=log.last_number() + 1))
    return shards[0].path


def test_a_commit_on_an_old_version_is_refused(tmp_path):
    path = str(tmp_path)
    create(path)
    create(path)  # does nothing, as for a second writer
    old = open_log(path)
    commit(path, "a")
    with pytest.raises(ConflictError, match="has version 1, not 0"):
        commit(path, "b", log=old, replace=False)
    assert (open_log(path).version, pin(path).fingerprint) == (1, "a")


def test_a_log_shows_nothing_that_came_later(tmp_path):
    path = str(tmp_path)
    create(path)
    commit(path, "a")
    old = open_log(path)
    commit(path, "b")
    assert (old.pin().fingerprint, old.pin(made_from="b"), old.last_number()) == ("a", None, 0)
    assert (open_log(path).pin().fingerprint, open_log(path).last_number()) == ("b", 1)


def test_a_log_tells_whose_shards_were_added(tmp_path):
    path = str(tmp_path)
    create(path)
    for name in ("a", "b", "c"):
        commit(path, name)
    log = open_log(path)
    assert [log.names_shards("w-b", after=version) for version in range(-1, 4)] == [True] * 3 + [False] * 2
    assert not log.names_shards("w-other", after=-1)


def test_a_new_description_is_no_change_of_rows(tmp_path):
    path = str(tmp_path)
    create(path)
    commit(path, "a")
    DeltaTable(path).alter.set_table_description("numbers that someone described")
    assert pin(path).fingerprint == "a"


def test_retention_keeps_what_is_named_and_deletes_the_rest(tmp_path):
    path = str(tmp_path)
    create(path)
    first, second, third, last = (commit(path, name) for name in "abcd")
    _, (orphan,) = write(plan_for(path, folder="w-killed"), batch([1]))
    keys = write_key_file(path, "w-killed/keys", np.array([1, 2], np.uint64))
    for file in (*tmp_path.rglob("*.parquet"), tmp_path / keys):
        os.utime(file, (time.time() - 9 * 86400,) * 2)
    _, (young,) = write(plan_for(path, folder="w-now"), batch([1]))
    # A week has passed for the files, but not since versions lost theirs.
    killed = sorted([orphan.path, keys])
    assert sorted(delete_unpinned(path, keep=[2], dry_run=True)) == killed
    assert sorted(delete_unpinned(path, keep=[2])) == killed
    assert not (tmp_path / orphan.path).exists()
    assert not (tmp_path / keys).exists()
    delete_unpinned(path, keep=[2], min_age_hours=0)
    left = {
        str(file.relative_to(path)) for file in tmp_path.rglob("*.parquet") if "_delta_log" not in str(file)
    }
    assert left == {second, last} - {first, third, young.path}
    assert DeltaTable(path, version=2).to_pyarrow_table().num_rows == 1
    assert pin(path).fingerprint == "d"
    with pytest.raises(ValueError, match=r"keep names versions \[77\], but .* has versions 0 to"):
        delete_unpinned(path, keep=[2, 77])


@pytest.mark.slow
def test_a_pin_behind_ten_thousand_commits_takes_under_a_second(tmp_path):
    path, log = str(tmp_path), tmp_path / "_delta_log"
    create(path)
    number = 10_000
    for version in range(1, number + 1):
        name = f"f{version}"
        note = json.dumps({"distributary": record_of(name)})
        actions = [
            {"commitInfo": {"timestamp": version, "operation": "WRITE", "userMetadata": note}},
            {"txn": {"appId": transaction_name(name), "version": version}},
        ]
        (log / f"{version:020d}.json").write_text("\n".join(map(json.dumps, actions)))
    DeltaTable(path, version=number - 5).create_checkpoint()
    started = time.perf_counter()
    assert pin(path, made_from="f3").version == 3
    assert pin(path, made_from="never") is None
    assert pin(path).version == number
    assert time.perf_counter() - started < 1
    assert Path(log, "_last_checkpoint").is_file()


def test_a_commit_whose_answer_was_lost_is_found(tmp_path):
    path = str(tmp_path)
    create(path)
    log, (_, shards) = open_log(path), write(plan_for(path, folder="w-a"), batch([1]))
    for _ in range(2):  # the second attempt meets the first one
        commit_shards(log, shards, replace=True, record=record_of("a"))
    assert (open_log(path).version, pin(path).fingerprint) == (1, "a")
    assert DeltaTable(path).to_pyarrow_table().num_rows == 1
    # Another driver with equal inputs has shards of its own.
    with pytest.raises(ConflictError, match="has version 1, not 0"):
        commit_shards(log, shards, replace=True, record={**record_of("a"), "folder": "w-other"})


def create_with(path, protocol):
    """A table with the protocol of another writer."""
    metadata = {
        "id": "of-tests",
        "format": {"provider": "parquet", "options": {}},
        "schemaString": SPARK_SCHEMA,
        "partitionColumns": [],
        "configuration": {},
    }
    Path(path, "_delta_log").mkdir(parents=True)
    lines = [{"protocol": protocol}, {"metaData": metadata}]
    Path(path, "_delta_log", f"{0:020d}.json").write_text("\n".join(map(json.dumps, lines)))


FOR_READERS_TOO = {
    "columnMapping",
    "deletionVectors",
    "timestampNtz",
    "typeWidening",
    "v2Checkpoint",
    "vacuumProtocolCheck",
    "variantType",
    "variantType-preview",
}
NOT_WRITTEN = [
    "allowColumnDefaults",
    "checkpointProtection",
    "clustering",
    "coordinatedCommits-preview",
    "domainMetadata",
    "icebergCompatV1",
    "icebergCompatV2",
    "identityColumns",
    "inCommitTimestamp",
    "materializePartitionColumns",
    "rowTracking",
    "typeWidening",
    "vacuumProtocolCheck",
]


@pytest.mark.parametrize("feature", sorted({*WRITER_FEATURES, *NOT_WRITTEN}))
def test_features_that_delta_rs_does_not_write_are_refused_by_name(tmp_path, feature):
    """delta-rs itself says which ones: it commits, or it refuses."""
    path, reader = str(tmp_path / "t"), [feature] if feature in FOR_READERS_TOO else []
    protocol = {"minReaderVersion": 3, "readerFeatures": reader} if reader else {"minReaderVersion": 1}
    create_with(path, {**protocol, "minWriterVersion": 7, "writerFeatures": [feature]})
    log = open_log(path)
    if feature in NOT_WRITTEN:
        with pytest.raises(CommitFailedError, match="Unsupported table features required"):
            commit(path, "a", log=log)
        with pytest.raises(ValueError, match=rf"{path} .* do not know: {feature}; .*DROP FEATURE.*DynamoDB"):
            require_writable(log)
    else:
        require_writable(log)
        commit(path, "a", log=log)


def test_a_protocol_without_a_list_of_features_is_known_by_its_version(tmp_path):
    for version in (2, 5, 6, 8):
        create_with(f"{tmp_path}/{version}", {"minReaderVersion": 2, "minWriterVersion": version})
    require_writable(open_log(f"{tmp_path}/2"))
    require_writable(open_log(f"{tmp_path}/5"))
    for version, feature in ((6, "identityColumns"), (8, "writer version 8")):
        with pytest.raises(CommitFailedError, match=r"IdentityColumns|features must be specified"):
            commit(f"{tmp_path}/{version}", "a")
        with pytest.raises(ValueError, match=f"do not know: {feature}; take a table without them"):
            require_writable(open_log(f"{tmp_path}/{version}"))


def test_properties_that_a_table_refuses_are_no_conflict(tmp_path):
    path, properties = str(tmp_path / "t"), {"delta.constraints.positive": "number > 0"}
    create_with(path, {"minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": ["rowTracking"]})
    with pytest.raises(CommitFailedError, match="RowTracking"):
        set_properties(open_log(path), properties)
    path = str(tmp_path / "ours")
    create(path)
    old = open_log(path)
    commit(path, "a")
    with pytest.raises(ConflictError, match="has version 1, not 0"):
        set_properties(old, properties)
    set_properties(open_log(path), properties)
    assert open_log(path).version == 2

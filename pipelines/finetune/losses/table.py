"""The parts of a training as a Delta table in its run folder; the driver commits them when it ends.

Once: the commit carries a fingerprint of the parts. Files that are in no part stay until a VACUUM.
"""

import json
from dataclasses import asdict, replace
from typing import Any

import pyarrow.parquet as pq

from pipelines.column_statistics import summarize_columns
from pipelines.commit import commit_shards, create_table
from pipelines.contract import PROPERTIES
from pipelines.finetune.losses.parts import NAME, list_parts, open_losses
from pipelines.pin import Pin, fingerprint, open_log
from pipelines.shards import Shard
from pipelines.storage import Folder, locate

PARTITION = "run"
COLUMNS = (
    (PARTITION, "string", "id of the MLflow run"),
    ("step", "long", "optimizer step, from 1, as in the charts of the run"),
    ("epoch", "integer", "pass over the sequences, or over those of its source, from 1"),
    ("rank", "integer", "data replica that had the sequence, from 0"),
    ("sequence_id", "long", "of the pinned version of the table sequences"),
    ("loss_sum", "double", "sum of the loss over the targets of the sequence, nats, before the update"),
    ("num_targets", "integer", "terms of that sum; of preference one, the pair"),
)
"""Name, type of Spark and comment. None is null."""


def commit_losses(run_folder: str, run_id: str) -> Pin | None:
    """Commit the parts of a training as the rows of its table; the commit. None if it has no parts.

    A second call for the same parts changes nothing.
    """
    losses = open_losses(run_folder)
    parts = list_parts(losses)
    if not parts:
        return None
    made_from = fingerprint(NAME, run_id, [asdict(part) for part in parts])
    create_table(
        losses.path,
        _describe_columns(),
        name=NAME,
        description="what one sequence added to the loss of one step",
        partition_by=[PARTITION],
        properties=PROPERTIES,
    )
    log = open_log(losses.path)
    assert log is not None, "it was created just now"
    found = log.pin(made_from=made_from)
    if found is not None:
        return found
    shards = [
        replace(shard, partition={PARTITION: run_id})
        for part in parts
        for shard in (_describe_file(losses, file) for file in part.files)
    ]
    record = {
        "table": NAME,
        "digest": "",  # no stage reads the table, so nobody pins its rows
        "num_rows": sum(shard.num_rows for shard in shards),
        "fingerprint": made_from,
        "facts": {"first_step": parts[0].first + 1, "last_step": parts[-1].last},
        "last_foreign": log.last_foreign(),
        "number": log.last_number() + 1,
        "folder": "",
    }
    commit_shards(log, shards, replace=True, record=record)
    committed = open_log(losses.path)
    assert committed is not None, "it was committed just now"
    return committed.pin(made_from=made_from)


def _describe_columns() -> str:
    """The columns as Spark writes them in JSON."""
    fields: list[dict[str, Any]] = [
        {"name": name, "type": kind, "nullable": False, "metadata": {"comment": comment}}
        for name, kind, comment in COLUMNS
    ]
    return json.dumps({"type": "struct", "fields": fields})


def _describe_file(losses: Folder, file: str) -> Shard:
    files, root = locate(losses.path)
    place = f"{root.rstrip('/')}/{file}"
    metadata = pq.read_metadata(place, filesystem=files)
    return Shard(
        path=file,
        num_bytes=int(files.get_file_info(place).size),
        num_rows=int(metadata.num_rows),
        partition={},
        statistics=summarize_columns(metadata),
    )

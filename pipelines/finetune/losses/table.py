"""The parts of a training as a Delta table in its run folder; the driver commits them when it ends.

Once: the commit carries a fingerprint of the parts, and names the run that made it. If the training went on
after a commit, the next one takes out and adds only the files that differ: an action of each path at most, as
Delta's protocol demands. Files that are in no part stay until a VACUUM.
"""

from dataclasses import asdict

from pipelines.arrow_shards import describe_columns, describe_shards
from pipelines.commit import commit_shards, create_table
from pipelines.contract import PROPERTIES
from pipelines.finetune.losses.parts import NAME, NUM_READERS, list_parts, open_losses
from pipelines.pin import Pin, fingerprint, open_log

COLUMNS = (
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

    A second call for the same parts changes nothing, also for another run: the commit names the first.
    """
    losses = open_losses(run_folder)
    parts = list_parts(losses)
    if not parts:
        return None
    made_from = fingerprint(NAME, [asdict(part) for part in parts])
    create_table(
        losses.path,
        describe_columns([(name, kind, False, comment) for name, kind, comment in COLUMNS]),
        name=NAME,
        description="what one sequence added to the loss of one step",
        partition_by=[],
        properties=PROPERTIES,
    )
    log = open_log(losses.path)
    assert log is not None, "it was created just now"
    found = log.pin(made_from=made_from)
    if found is not None:
        return found
    files = [file for part in parts for file in part.files]
    committed = log.list_shards()
    kept = committed.keys() & set(files)
    new = [file for file in files if file not in kept]
    shards = describe_shards(losses, new, num_readers=NUM_READERS)
    record = {
        "table": NAME,
        "digest": "",  # no stage reads the table or pins its rows
        "num_rows": sum(shard.num_rows for shard in shards) + sum(committed[file] for file in kept),
        "fingerprint": made_from,
        "facts": {"run": run_id, "first_step": parts[0].first + 1, "last_step": parts[-1].last},
        "last_foreign": log.last_foreign(),
        "number": log.last_number() + 1,
        "folder": "",
    }
    commit_shards(log, shards, replace=False, record=record, removed=committed.keys() - kept)
    log = open_log(losses.path)
    assert log is not None, "it was committed just now"
    return log.pin(made_from=made_from)

"""What a split of the sequences has of each source, without a JVM: from the facts of their commit, or from
two small columns of the pinned table where the facts of an earlier Distributary do not say it."""

from collections import Counter
from dataclasses import asdict, replace

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.dataset.mixing.plan import MixturePlan, SourceCount, plan_mixture
from pipelines.dataset.mixing.rules import Mixture
from pipelines.dataset.pinned_files import open_pinned, require_plain_files
from pipelines.dataset.source_facts import read_sources
from pipelines.pin import Pin, fingerprint
from pipelines.repeating import repeat_on_hdfs


def count_sources(path: str, *, table_id: str, version: int, split: str) -> list[SourceCount]:
    """Sources in the order of their names.

    Reads 4 bytes per sequence and less than a byte for its source. Raises ValueError if the table has no
    column source, because an earlier version wrote it.
    """
    return repeat_on_hdfs(path, lambda: _count(path, table_id, version, split))


def plan_on_table(
    mixture: Mixture, sequences: Pin, path: str, *, num_epochs: float, global_batch: int
) -> MixturePlan | None:
    """The plan of a training on the train split of the pinned sequences, whose files are at `path`; None if
    the mixture asks for nothing.

    Raises ValueError as `plan_mixture` does.
    """
    if not mixture.is_set:
        return None
    known = read_sources(sequences.facts, "train")
    if known is None:
        counts = count_sources(path, table_id=sequences.table_id, version=sequences.version, split="train")
    else:
        counts = [
            SourceCount(source=source, num_sequences=of["sequences"], num_tokens=of["tokens"])
            for source, of in sorted(known.items())
        ]
    plan = plan_mixture(mixture, counts, num_epochs=num_epochs, global_batch=global_batch)
    made_from = fingerprint("mixture", sequences.identity(), asdict(mixture), global_batch, plan.identity())
    return replace(plan, id=made_from)


def _count(path: str, table_id: str, version: int, split: str) -> list[SourceCount]:
    pinned = open_pinned(path, table_id=table_id, version=version)
    require_plain_files(path, pinned)
    files = pinned.to_pyarrow_dataset()
    if "source" not in files.schema.names:
        raise ValueError(
            f"sequences at {path} do not say which source they are of, and finetune.mixture needs it; run "
            "the dataset stage again"
        )
    num_sequences: Counter[str] = Counter()
    num_tokens: Counter[str] = Counter()
    columns = ["source", "num_tokens"]
    for batch in files.to_batches(columns=columns, filter=pc.field("split") == split):
        sums = pa.table(batch).group_by("source").aggregate([("num_tokens", "count"), ("num_tokens", "sum")])
        for row in sums.to_pylist():
            num_sequences[row["source"]] += row["num_tokens_count"]
            num_tokens[row["source"]] += row["num_tokens_sum"]
    return [
        SourceCount(source=source, num_sequences=num_sequences[source], num_tokens=num_tokens[source])
        for source in sorted(num_sequences)
    ]

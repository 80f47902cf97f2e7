"""Plans of mixtures as rows of the table `mixtures`, and back. Rows are only added, so a run can name its
mixture by (version, id) for as long as the table exists.
"""

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.dataset.mixing.plan import MixturePlan, SourcePlan
from pipelines.dataset.mixing.rules import Mixture
from pipelines.dataset.pinned_files import open_pinned, require_plain_files
from pipelines.repeating import repeat_on_hdfs

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from pipelines.pin import Pin

COLUMNS = ("source", "num_sequences", "num_used", "num_planned", "share", "is_limited")
"""Fields of SourcePlan that the table has under their names."""


def write_mixture(
    spark: "SparkSession", path: str, plan: MixturePlan, mixture: Mixture, sequences: "Pin"
) -> "Pin":
    """The commit with the plan, made now or earlier."""
    from pipelines.tables import MIXTURES

    limits = [mixture.find_limit(each.source) for each in plan.sources]
    columns: dict[str, Any] = {
        name: [getattr(each, name) for each in plan.sources] for name in (*COLUMNS, "repeats")
    }
    columns |= {
        "mixture": [plan.id] * len(limits),
        "asked_share": [mixture.shares.get(each.source) for each in plan.sources],
        "temperature": [mixture.temperature] * len(limits),
        "max_repeats": [None if limit == float("inf") else limit for limit in limits],
        "sequences_table_id": [sequences.table_id] * len(limits),
        "sequences_version": [sequences.version] * len(limits),
    }
    rows = spark.createDataFrame(pa.table(columns, schema=MIXTURES.arrow_schema))
    return MIXTURES.append(rows, path, fingerprint=plan.id, facts={"mixture": plan.id})


def read_mixture(path: str, *, table_id: str, version: int, mixture: str) -> MixturePlan:
    """The plan with this id, without a JVM. Raises LookupError if the pinned version does not have it."""

    def read() -> pa.Table:
        pinned = open_pinned(path, table_id=table_id, version=version, table="mixtures", stage="finetune")
        require_plain_files(path, pinned)
        chosen = pc.field("mixture") == mixture
        return pinned.to_pyarrow_dataset().to_table(columns=list(COLUMNS), filter=chosen)

    rows = repeat_on_hdfs(path, read).sort_by("source").to_pylist()
    if not rows:
        raise LookupError(f"mixtures at {path} have no mixture {mixture} in version {version}")
    return MixturePlan(id=mixture, sources=tuple(SourcePlan(**row) for row in rows))

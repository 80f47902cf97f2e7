"""Earlier rows whose label is another one because of new files: which they are, and how they are written
again together with the other rows of their shards."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from pyspark.sql import DataFrame, Observation, Row
from pyspark.sql import functions as F

from pipelines.change import Replaced
from pipelines.contract import ChangedMeanwhileError
from pipelines.corpus.copies import Copies
from pipelines.corpus.increment import BROADCAST_ROWS, Earlier
from pipelines.corpus.neardup.find import Found
from pipelines.corpus.neardup.presets import NEAR_DUPLICATE
from pipelines.corpus.quality import EXACT_DUPLICATE, label_quality
from pipelines.corpus.rules import Rules
from pipelines.digest import aggregate_totals, collect_totals
from pipelines.spark import persisted
from pipelines.tables import DOCUMENTS


@dataclass(frozen=True, kw_only=True, slots=True)
class Relabelled:
    """Earlier rows whose label is another one now."""

    earlier: Earlier
    labels: DataFrame
    """doc_id, new_duplicate_of, new_drop_reason."""
    shards: tuple[str, ...]
    """Paths of the files that hold the rows, as the log has them."""
    num_rows: int
    """Of these files."""
    measured: Observation = field(default_factory=Observation)
    """Gets the totals of the rows as they were."""

    def read_changed(self) -> DataFrame:
        """All rows of the shards, with the labels that they have now. To be computed once."""
        rows = self.earlier.read_paths(self.shards)
        totals = aggregate_totals(rows.schema, DOCUMENTS.schema.names)
        labelled = rows.observe(self.measured, *totals).join(self.labels, "doc_id", "left")
        is_changed = F.col("is_changed").isNotNull()
        return labelled.withColumns(
            {
                name: F.when(is_changed, F.col(f"new_{name}")).otherwise(F.col(name))
                for name in ("duplicate_of", "drop_reason")
            }
        ).select(*DOCUMENTS.schema.names)

    @property
    def replaced(self) -> Replaced:
        """What the rows replace, once they have been written. Raises ChangedMeanwhileError if rows were
        missed."""
        totals = collect_totals(self.measured.get)
        if totals.num_rows != self.num_rows:
            raise ChangedMeanwhileError(
                f"documents: {len(self.shards):,} shards of {self.earlier.pin.path} have {self.num_rows:,} "
                f"rows by the log, but {totals.num_rows:,} were read; run the stage again"
            )
        return Replaced(shards=self.shards, totals=totals)


def relabel(
    stack: ExitStack, earlier: Earlier, copies: Copies, near: Found | None, rules: Rules
) -> tuple[Relabelled | None, list[Row]]:
    """(the earlier rows whose label is another one now, None if there are none; how many there are by what
    changes, as `count_moves` gives them)"""
    others, removed = copies.earlier, None
    assert others is not None, "there are earlier documents"
    if near is not None:
        if not (copies.has_earlier or near.has_revisited):
            return None, []
        removed = near.removed.where("task IS NULL").select(
            "doc_id", F.col("duplicate_of").alias("near_survivor_id")
        )
        again = near.revisited if near.revisited is not None else earlier.find_removed(removed)
        others = others.union(again.select(others.columns)).distinct()
    elif not copies.has_earlier:
        return None, []
    changed = stack.enter_context(persisted(label_again(others, copies.survivors, rules, removed)))
    moves = count_moves(changed)
    return find_relabelled(earlier, changed, moves), moves


def label_again(
    copies: DataFrame, survivors: DataFrame, rules: Rules, removed: DataFrame | None = None
) -> DataFrame:
    """The earlier rows whose duplicate_of or drop_reason is another one now, with both as new_duplicate_of
    and new_drop_reason. Needs the columns of `Earlier.read_rows`.

    removed: doc_id and near_survivor_id of the near duplicates among them; None = they are not looked for.
    """
    # Every other reason comes before being a copy, so it stays whatever the survivor is.
    reason, is_copy = F.col("drop_reason"), F.col("drop_reason").isin(EXACT_DUPLICATE, NEAR_DUPLICATE)
    kept = {"old_duplicate_of": F.col("duplicate_of"), "old_drop_reason": reason}
    survivor = F.when(F.col("survivor_id") != F.col("doc_id"), F.col("survivor_id"))
    labelled = copies.join(survivors, "content_hash", "left")
    near = F.lit(None).cast("string")
    if removed is not None:
        labelled, near = labelled.join(removed, "doc_id", "left"), F.col("near_survivor_id")
    failed = F.when(near.isNotNull(), F.lit(NEAR_DUPLICATE)).when(~is_copy, reason)
    now = {"duplicate_of": F.coalesce(survivor, near), "failed_rule": failed}
    labelled = labelled.withColumns({**kept, **now})
    labelled = label_quality(labelled, rules).withColumnsRenamed(
        {"duplicate_of": "new_duplicate_of", "drop_reason": "new_drop_reason"}
    )
    differs = [
        ~F.col(f"new_{name}").eqNullSafe(F.col(f"old_{name}")) for name in ("duplicate_of", "drop_reason")
    ]
    return labelled.where(differs[0] | differs[1])


def count_moves(changed: DataFrame) -> list[Row]:
    """How many rows of `label_again` there are by shard, source, split, old_drop_reason and
    new_drop_reason."""
    groups = changed.groupBy("shard", "source", "split", "old_drop_reason", "new_drop_reason")
    return groups.count().collect()


def find_relabelled(earlier: Earlier, changed: DataFrame, moves: Sequence[Row]) -> Relabelled | None:
    """The rows that `label_again` gave, with the shards that hold them; None if there are none."""
    names = {move.shard for move in moves}
    if not names:
        return None
    labels = changed.select("doc_id", "new_duplicate_of", "new_drop_reason", F.lit(True).alias("is_changed"))
    if sum(move["count"] for move in moves) <= BROADCAST_ROWS:  # or else the join would sort the texts
        labels = F.broadcast(labels)
    shards = earlier.find_shards(names)
    return Relabelled(
        earlier=earlier, labels=labels, shards=tuple(sorted(shards)), num_rows=sum(shards.values())
    )

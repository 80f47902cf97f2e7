"""New files on top of earlier documents: which earlier rows change, and the tables as a full run makes them.

What a full run decides about a document depends on other documents in three ways only.

1. Equal contents: the survivor is the copy in test, else validation, else train, then the one with the
   smallest doc_id (`dedup.find_survivors`). A new file can bring a better copy, so earlier rows change: their
   duplicate_of, and perhaps their drop_reason. Only earlier rows with a content hash of the new files can.
2. Equal keys in a source: the record with the smallest (file, offset) stays. If a new record comes before an
   earlier one, a document would have to move to quarantine: then a full run is made.
3. Near duplicates: a new text can remove an earlier one, and keep one by removing the text that had removed
   it. The search looks at the members that this can reach (`neardup/affected.py`), or at all of them where
   that cannot be told. It has signatures and similarities of earlier texts, and reads texts of the table
   `documents` only where it has not.

Earlier rows are read without their texts, about 150 bytes a document. Rows that change are written again
together with the other rows of their shards.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from pyspark.sql import DataFrame, Observation, Row, SparkSession
from pyspark.sql import functions as F

from pipelines.change import Replaced
from pipelines.contract import ChangedMeanwhileError
from pipelines.corpus.counts import LABELS_COUNTED
from pipelines.corpus.few import settle_rows
from pipelines.corpus.intake import FullRunNeededError
from pipelines.corpus.neardup.presets import NEAR_DUPLICATE
from pipelines.corpus.neardup.stored import Work
from pipelines.corpus.quality import EXACT_DUPLICATE, label_quality
from pipelines.corpus.readers.files import work_on_documents
from pipelines.corpus.rules import Rules
from pipelines.digest import aggregate_totals, collect_totals
from pipelines.held import read_shards
from pipelines.pin import Pin, TableLog, open_log
from pipelines.tables import CONTAMINATION, DOCUMENTS

_COLUMNS = (
    *("doc_id", "source", "file", "offset", "content_hash", "num_chars"),
    *("split", "duplicate_of", "drop_reason"),
)
BROADCAST_ROWS = 1_000_000
"""Rows of a hash and an id that every executor gets: 100 MB. More are joined by a shuffle."""
_LATEST = ("contamination", "decontamination", "near_duplicates", "report")
"""Facts that are no sums. Several documents may have the same record of an evaluation set, so contamination
is counted over all documents, as near duplicates are; decontamination has its limits; a report is written by
each run for itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Earlier:
    """The documents that are there."""

    pin: Pin
    log: TableLog
    """Of the version that is read: the newest, because a maintenance that came after the pin has moved the
    same rows to other files."""
    documents: DataFrame
    """All columns of the rows."""
    hits: DataFrame | None = None
    """Rows of CONTAMINATION of the documents; None = there are no evaluation sets."""

    def add_hits(self, hits: DataFrame) -> DataFrame:
        """Rows of CONTAMINATION of the new documents, and those of the earlier ones."""
        return hits if self.hits is None else self.hits.unionByName(hits)

    def read_rows(self) -> DataFrame:
        """The columns that decisions need, and shard, the name of the file of the row."""
        return self.documents.select(*_COLUMNS, F.col("_metadata.file_name").alias("shard"))

    def find_rows(self, values: DataFrame) -> DataFrame:
        """The rows that have one of the values, of the one column that `values` has."""
        return self.read_rows().join(values, values.columns[0], "left_semi")

    def find_members(self) -> DataFrame:
        """The rows among which near duplicates were looked for."""
        return select_members(self.read_rows())

    def find_removed(self, removed: DataFrame) -> DataFrame:
        """The rows that were near duplicates, or are now: `removed` has their doc_id."""
        is_removed = removed.select("doc_id", F.lit(True).alias("is_removed"))
        rows = self.read_rows().join(is_removed, "doc_id", "left")
        return rows.where(F.col("is_removed") | (F.col("drop_reason") == NEAR_DUPLICATE)).drop("is_removed")

    def work_on_texts(self, positions: DataFrame, work: Work, ddl: str) -> DataFrame | None:
        """Rows of `ddl` that `work` makes of the texts of these rows; see `readers.files.read_texts`. None if
        there are none."""
        wanted = positions.select("doc_id").distinct()
        ids, number = settle_rows(wanted) or (wanted, wanted.count())
        if not number:
            return None
        ids = F.broadcast(ids) if number <= BROADCAST_ROWS else ids
        return work_on_documents(self.documents.join(ids, "doc_id", "left_semi"), work, ddl)


def open_earlier(spark: SparkSession, pinned: Pin, contamination: str = "") -> Earlier:
    """The documents that were pinned, and what the table `contamination` has of them (empty = there is no
    such table). Raises RuntimeError if the documents are other ones now."""
    log = open_log(pinned.path)
    if log is None or log.pin() != pinned:
        raise RuntimeError(
            f"documents at {pinned.path}: another writer changed the rows meanwhile; run the stage again "
            "when it is done"
        )
    hits = None
    if contamination:
        of_hits = open_log(contamination)
        found = of_hits.pin(made_from=pinned.fingerprint) if of_hits else None
        assert of_hits, "plan_intake has found it"
        assert found, "plan_intake has found it"
        of_rows = open_log(contamination, version=of_hits.find_newest_version(found))
        hits = CONTAMINATION.read_newest(spark, contamination, of_rows)
    # Without a file there is no _metadata; Delta has it also then.
    documents = (
        DOCUMENTS.read_newest(spark, pinned.path, log)
        if log.list_shards()
        else DOCUMENTS.read(spark, pinned.path, log.version)
    )
    return Earlier(pin=pinned, log=log, documents=documents, hits=hits)


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
        spark, path = self.earlier.documents.sparkSession, self.earlier.pin.path
        rows = read_shards(spark, DOCUMENTS.schema, path, self.shards)
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


def select_members(rows: DataFrame) -> DataFrame:
    """The rows that were members of a search for near duplicates: those that no other rule drops, and that
    are copies of nothing. Needs the columns of `Earlier.read_rows`."""
    is_kept = F.col("drop_reason").isNull() & F.col("duplicate_of").isNull()
    return rows.where(is_kept | (F.col("drop_reason") == NEAR_DUPLICATE))


def select_contents(documents: DataFrame) -> DataFrame:
    """The contents whose earlier copies matter; empty texts are copies of nothing."""
    return documents.where("num_chars > 0").select("content_hash").distinct()


def select_keys(documents: DataFrame) -> DataFrame:
    """The ids that are made of keys: an earlier document with such an id has the same key."""
    return documents.where("has_key").select("doc_id").distinct()


def add_rows(documents: DataFrame, earlier: DataFrame | None) -> DataFrame:
    """The documents and earlier rows that are compared with them; what these do not have is null, has_key is
    true."""
    if earlier is None:
        return documents
    return documents.unionByName(earlier.withColumn("has_key", F.lit(True)), allowMissingColumns=True)


def require_later_records(same_keys: DataFrame, first_records: DataFrame) -> None:
    """Raises FullRunNeededError if an earlier document repeats the key of a new record that comes first."""
    is_later = F.col("first") != F.struct("file", "offset")
    moved = same_keys.join(first_records, "doc_id").where(is_later).select("source", "file", "first").head()
    if moved is not None:
        raise FullRunNeededError(
            f"source {moved.source!r}: new file {moved['first'].file} has a key of {moved.file}, and the "
            "first of both by name stays"
        )


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
    files = earlier.log.list_shards()
    shards = {path: num_rows for path, num_rows in files.items() if path.rpartition("/")[2] in names}
    return Relabelled(
        earlier=earlier, labels=labels, shards=tuple(sorted(shards)), num_rows=sum(shards.values())
    )


def add_facts(before: Mapping[str, Any], found: Mapping[str, Any], moves: Sequence[Row]) -> dict[str, Any]:
    """The facts of a full run: those of the earlier one, of the new files, and of the rows that changed
    (`count_moves`)."""
    sums = ({name: fact for name, fact in each.items() if name not in _LATEST} for each in (before, found))
    facts = _add(*sums) | {name: found[name] for name in _LATEST if name in found}
    for move in moves:
        for reason, number in ((move.old_drop_reason, -move["count"]), (move.new_drop_reason, move["count"])):
            part, name = ("kept", move["split"]) if reason is None else ("dropped", reason)
            facts[part][name] = facts[part].get(name, 0) + number
            if (label := reason or "kept") in LABELS_COUNTED:
                facts["sources"][move.source][label] += number
    for part in ("kept", "dropped"):
        facts[part] = {name: count for name, count in sorted(facts[part].items()) if count}
    return facts


def _add(before: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Sums of the numbers that both have under the same names, at any depth."""
    both = deepcopy(dict(before))
    for name, value in found.items():
        if isinstance(value, Mapping):
            both[name] = _add(before.get(name, {}), value)
        else:
            both[name] = before.get(name, 0) + value
    return both

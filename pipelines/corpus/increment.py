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

Earlier rows are read without their texts, about 150 bytes a document: once into the driver's memory if they
are few, otherwise by Spark for each question. Rows that change are written again together with the other rows
of their shards.
"""

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from pipelines.arrow_rows import read_few
from pipelines.corpus.counts import LABELS_COUNTED
from pipelines.corpus.few import bring_rows, send_rows, send_values
from pipelines.corpus.intake import FullRunNeededError
from pipelines.corpus.lookup import ArrowRows, Rows, SparkRows, find_rows
from pipelines.corpus.neardup.presets import NEAR_DUPLICATE
from pipelines.corpus.neardup.stored import Work
from pipelines.corpus.readers.files import work_on_documents
from pipelines.held import read_shards
from pipelines.pin import Pin, TableLog, open_log
from pipelines.tables import CONTAMINATION, DOCUMENTS

HELD = pa.schema(
    [
        *((name, pa.string()) for name in ("doc_id", "source", "file")),
        ("offset", pa.int64()),
        ("content_hash", pa.string()),
        ("num_chars", pa.int32()),
        *((name, pa.string()) for name in ("split", "duplicate_of", "drop_reason")),
    ]
)
"""Columns that decisions need."""
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
    held: pa.Table | None = None
    """What `read_rows` gives, in the driver's memory; None = there are too many rows."""
    hits: DataFrame | None = None
    """Rows of CONTAMINATION of the documents; None = there are no evaluation sets."""

    def add_hits(self, hits: DataFrame) -> DataFrame:
        """Rows of CONTAMINATION of the new documents, and those of the earlier ones."""
        return hits if self.hits is None else self.hits.unionByName(hits)

    def read_rows(self) -> DataFrame:
        """The columns that decisions need, and shard, the name of the file of the row."""
        return self.documents.select(*HELD.names, F.col("_metadata.file_name").alias("shard"))

    def find_rows(self, values: DataFrame) -> DataFrame:
        """The rows that have one of the values, of the one column that `values` has."""
        return self.read_rows().join(values, values.columns[0], "left_semi")

    def find_few(self, values: DataFrame) -> DataFrame | None:
        """The same, as values in a plan; None if rows or values are not few."""
        few = None if self.held is None else bring_rows(values)
        if self.held is None or few is None:
            return None
        (column,) = values.columns
        found = find_rows(self.held, column, few[column])
        return send_rows(values.sparkSession, found, self.read_rows().schema)

    def find_members(self) -> DataFrame:
        """The rows among which near duplicates were looked for."""
        return select_members(self.read_rows())

    def open_members(self) -> Rows:
        """The same rows, to be looked up."""
        if self.held is None:
            return SparkRows(self.find_members(), "doc_id")
        reason, has_survivor = self.held["drop_reason"], pc.is_valid(self.held["duplicate_of"])
        is_kept = pc.and_not(pc.is_null(reason), has_survivor)
        is_near = pc.fill_null(pc.equal(reason, NEAR_DUPLICATE), False)
        return ArrowRows(self.held.filter(pc.or_(is_kept, is_near)))

    def find_removed(self, removed: DataFrame) -> DataFrame:
        """The rows that were near duplicates, or are now: `removed` has their doc_id."""
        is_removed = removed.select("doc_id", F.lit(True).alias("is_removed"))
        rows = self.read_rows().join(is_removed, "doc_id", "left")
        return rows.where(F.col("is_removed") | (F.col("drop_reason") == NEAR_DUPLICATE)).drop("is_removed")

    def work_on_texts(self, positions: DataFrame, work: Work, ddl: str) -> DataFrame | None:
        """Rows of `ddl` that `work` makes of the texts of these rows; see `readers.files.read_texts`. None if
        there are none. Of few rows, only the shards that hold them are read."""
        wanted = positions.select("doc_id").distinct()
        few, documents = bring_rows(wanted), self.documents
        number = wanted.count() if few is None else few.num_rows
        if not number:
            return None
        if few is not None:
            wanted = send_values(documents.sparkSession, "doc_id", few["doc_id"])
            if self.held is not None:
                names = find_rows(self.held, "doc_id", few["doc_id"])["shard"]
                documents = self.read_shards(set(names.to_pylist()))
        ids = F.broadcast(wanted) if number <= BROADCAST_ROWS else wanted
        return work_on_documents(documents.join(ids, "doc_id", "left_semi"), work, ddl)

    def find_shards(self, names: Collection[str]) -> dict[str, int]:
        """Path, as the log has it, and number of rows of the files with these names."""
        files = self.log.list_shards()
        return {path: rows for path, rows in files.items() if path.rpartition("/")[2] in names}

    def read_shards(self, names: Collection[str]) -> DataFrame:
        """All columns of the rows of the files with these names."""
        return self.read_paths(sorted(self.find_shards(names)))

    def read_paths(self, shards: Sequence[str]) -> DataFrame:
        """The same by the paths that the log has. The table may have a name: the log knows its folder."""
        folder = self.log.folder or self.pin.path
        return read_shards(self.documents.sparkSession, DOCUMENTS.schema, folder, shards)


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
    held = read_few(log, HELD, shard="shard")
    return Earlier(pin=pinned, log=log, documents=documents, held=held, hits=hits)


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

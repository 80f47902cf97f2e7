"""Sources -> documents and quarantine, and the counts that prove that no record was lost.

1. Read positions: ids, sizes and faults of all records (`read_positions`), kept on the executors. Slices of
   gzip files get their exact places (`settle`).
2. Find copies and repeated keys among the positions (`dedup.py`): labels of single records.
3. Count what documents and quarantine must hold, so that a wrong mapping fails before documents are written.
4. Read again: documents with their labels, to the writer (`read_documents`).
5. Compare what was written with what was counted.

Cost: two passes over the files; about 60 bytes a record are shuffled, twice that if a source maps a key.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any

from pyspark.sql import DataFrame, Observation, SparkSession, Window
from pyspark.sql import functions as F

from pipelines.corpus.counts import compute_checksum, count_records
from pipelines.corpus.dedup import (
    find_first_records,
    find_survivors,
    label_copies,
    label_repeated_keys,
    leave_out_repeated_keys,
)
from pipelines.corpus.manifest import Manifest
from pipelines.corpus.quality import label_quality
from pipelines.corpus.readers.files import read_documents, read_positions, read_repeated
from pipelines.corpus.readers.settle import settle
from pipelines.corpus.readers.slices import LABELS, Slices, choose_slice_bytes, cut_files
from pipelines.corpus.rules import Rules
from pipelines.corpus.source import Source, check_names
from pipelines.corpus.split import label_splits
from pipelines.delta import ContractError
from pipelines.held import HeldRows
from pipelines.spark import count_slots, persisted
from pipelines.tables import DOCUMENTS, QUARANTINE

_BROADCAST_ROWS = 1_000_000
"""Rows of a hash and an id that every executor gets: 100 MB. More are joined by a shuffle of positions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """What was found in the sources. Its rows live as long as the context of `open_corpus`."""

    sources: Sequence[Source]
    rules: Rules
    slices: Slices
    positions: DataFrame
    """Rows of POSITIONS, the split filled."""
    copies: DataFrame | None
    """Positions with duplicate_of; None = there are none."""
    repeated: DataFrame | None
    """Positions with first_file and first_offset; None = there are none."""
    facts: dict[str, Any]
    """Records, documents, quarantine by kind, kept by split, dropped by reason, and each source."""
    checksum: int
    """Xor over ids and content hashes of the documents."""

    def quarantine(self) -> DataFrame:
        """Rows of QUARANTINE."""
        spark = self.positions.sparkSession
        if not self.facts["quarantined"]:
            return spark.createDataFrame([], QUARANTINE.schema)
        broken = self.positions.where("reason IS NOT NULL")
        if self.repeated is not None:
            labels = _select_labels(self.repeated)
            broken = broken.unionByName(read_repeated(spark, self.sources, self.slices, labels))
        return number_lines(broken, self.positions).select(*QUARANTINE.schema.names)

    @contextmanager
    def hold_documents(self, path: str) -> Iterator[HeldRows]:
        """Rows of DOCUMENTS for the table at `path`, computed by reading the files again.

        Raises ContractError if they are not those that were counted: files changed meanwhile.
        """
        labels = [_select_labels(rows) for rows in (self.copies, self.repeated) if rows is not None]
        both = reduce(DataFrame.unionByName, labels) if labels else None
        rows = read_documents(self.positions.sparkSession, self.sources, self.slices, both)
        documents = rows.transform(label_splits, self.sources).transform(label_quality, self.rules)
        measured = Observation()
        counted = documents.observe(measured, compute_checksum().alias("checksum"))
        with DOCUMENTS.hold(counted.select(*DOCUMENTS.schema.names), path) as held:
            if held.num_rows != self.facts["documents"] or (measured.get["checksum"] or 0) != self.checksum:
                raise ContractError(
                    f"corpus: {self.facts['records']:,} records should give {self.facts['documents']:,} "
                    f"documents, but reading them again gave {held.num_rows:,}, or other ones: files changed "
                    "while they were read; run the stage again when no other program writes to them"
                )
            yield held


@contextmanager
def open_corpus(
    spark: SparkSession, sources: Sequence[Source], manifest: Manifest, rules: Rules
) -> Iterator[Corpus]:
    """Read the positions of all records now, and find copies, repeated keys and counts.

    The result depends only on the records, not on their order or on how the files are cut.
    """
    check_names(sources)
    slices = cut_files(manifest, sources, choose_slice_bytes(manifest, count_slots(spark)))
    with ExitStack() as stack:

        def read(part: Slices) -> DataFrame:
            return read_positions(spark, sources, part).transform(label_splits, sources)

        positions = stack.enter_context(persisted(read(slices)))
        positions, slices = stack.enter_context(settle(positions, slices, read))
        documents, repeated = positions.where("doc_id IS NOT NULL"), None
        if any("key" in source.fields for source in sources):
            first_records, found = _count(stack, find_first_records(documents))
            if found:
                repeated = stack.enter_context(persisted(label_repeated_keys(documents, first_records)))
                documents = leave_out_repeated_keys(documents, first_records)
        survivors, found = _count(stack, find_survivors(documents))
        copies = stack.enter_context(persisted(label_copies(documents, survivors))) if found else None
        facts, checksum = count_records(positions, documents, copies, repeated, rules)
        for name, version in manifest.versions.items():
            if name in facts["sources"]:
                facts["sources"][name]["version"] = version
        yield Corpus(
            sources=sources,
            rules=rules,
            slices=slices,
            positions=positions,
            copies=copies,
            repeated=repeated,
            facts=facts,
            checksum=checksum,
        )


def _count(stack: ExitStack, groups: DataFrame) -> tuple[DataFrame, int]:
    """The rows, ready to be joined, and their number. The number is not known to Spark's planner."""
    held = stack.enter_context(persisted(groups))
    num_rows = held.count()
    return (F.broadcast(held) if num_rows <= _BROADCAST_ROWS else held), num_rows


def number_lines(rows: DataFrame, positions: DataFrame) -> DataFrame:
    """The rows with `line` counted from the start of the file instead of the slice.

    The rows of the slices carry their numbers of lines, so nothing is read for it.
    """
    before = Window.partitionBy("source", "file").orderBy("offset").rowsBetween(Window.unboundedPreceding, -1)
    slices = positions.where("num_lines IS NOT NULL").select(
        "slice", F.coalesce(F.sum("num_lines").over(before), F.lit(0)).alias("lines_before")
    )
    numbered = rows.join(slices, "slice", "left")
    return numbered.withColumn("line", F.col("line") + F.col("lines_before")).drop("lines_before")


def _select_labels(rows: DataFrame) -> DataFrame:
    """Labels as `scatter` needs them; what the rows do not have is null."""
    columns = [column.split() for column in LABELS.split(", ")]
    return rows.select(
        *(
            (F.col(name) if name in rows.columns else F.lit(None).cast(kind)).alias(name)
            for name, kind in columns
        )
    )

"""Kept documents to the sequences table: group, pack, number.

Documents fall into groups by a hash of doc_id; the number of groups depends on the data alone, never on the
cluster. A group is packed in doc_id order inside one task (group.py), and the sequences of the groups are
numbered one group after the other: the first number of a group is the sum of the counts of those before it.
So sequence ids are dense, and the digest of the table is the same on any number of executors.

Cost: one shuffle, of the text. A task gets neighbouring groups, so its rows are neighbours in number, and the
tokens are never moved again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import LongType, StructField, StructType

from pipelines.dataset.documents import DocumentSummary, select_kept
from pipelines.dataset.examples.table import load_builder
from pipelines.dataset.group import PackingJob, make_partition_packer, require_builder
from pipelines.dataset.packing.rules import PackingRules
from pipelines.dataset.tokenizer import ChosenTokenizer
from pipelines.delta import ContractError
from pipelines.spark import persisted
from pipelines.tables import SEQUENCES

DOCUMENT_BYTES = 512
"""Bytes that a document takes in a task besides its text, roughly."""
TASK_BYTES = 32 * 1024 * 1024
"""Most text of a task, about: it is sorted in memory. A table of 1 TB gets 31,000 files per split."""
COUNTS = ("sequences", "tokens", "cut_tokens", "continued", "targets")
"""What is counted of each group, and of each split. continued: segments whose document begins in another
sequence."""


class BuiltSequences(NamedTuple):
    """The rows of SEQUENCES, and their counts."""

    rows: DataFrame
    counts: dict[str, dict[str, int]]
    """split -> COUNTS."""
    end_token_id: int | None
    """Token that ends every document; None = the task ends none."""
    num_groups: int
    """Groups that the documents fell into; `trace` finds a document by its group."""
    masking: dict[str, int]
    """What a task that masks tokens must know: mask_token_id, vocab_size. Empty for others."""

    @property
    def facts(self) -> dict[str, Any]:
        """What the commit of the table keeps of them."""
        known = {"splits": self.counts, "end_token_id": self.end_token_id, "num_groups": self.num_groups}
        return known | self.masking


@contextmanager
def build_sequences(
    documents: DataFrame, chosen: ChosenTokenizer, rules: PackingRules, *, task: str, summary: DocumentSummary
) -> Iterator[BuiltSequences]:
    """Rows of SEQUENCES from the kept documents, cached while the context lasts if the session can cache.

    Two Spark jobs: one packs and counts; the writer of the table runs the other.
    """
    _require_fit(task, rules)
    builder = load_builder(task)
    end_token_id = chosen.require_end_token(task) if builder.needs_end_token else None
    masking = chosen.list_masking(task) if builder.needs_mask_token else {}
    job = PackingJob(
        task=task,
        tokenizer_json=chosen.tokenizer.to_str(),
        end_token_id=end_token_id,
        labels=summary.labels,
        rules=rules,
        chat=chosen.chat,
    )
    require_builder(job)
    schema, spark = _packed_schema(), documents.sparkSession
    num_groups = _count_groups(summary, rules)
    packed = (
        _group_documents(documents, task, num_groups)
        .transform(_deal_groups, num_groups, _count_tasks(spark, num_groups, rules))
        .mapInArrow(make_partition_packer(job, to_arrow_schema(schema)), schema)
    )
    # The rows must be counted before they can be numbered. Without the cache, texts would be encoded twice.
    with persisted(packed):
        groups = _count_by_group(packed)
        numbered = packed.join(F.broadcast(_number_groups(spark, groups)), ["split", "group"])
        sequence_id = (F.col("first_id") + F.col("position")).alias("sequence_id")
        rows = numbered.select(sequence_id, *SEQUENCES.schema.names[1:])
        yield BuiltSequences(rows, _count_by_split(groups), end_token_id, num_groups, masking)


def _require_fit(task: str, rules: PackingRules) -> None:
    fitting = load_builder(task).packing_methods
    if rules.method not in fitting:
        raise ValueError(
            f"dataset.packing.method {rules.method} does not fit dataset.task {task}; "
            f"set dataset.packing.method={' or '.join(fitting)}, or choose another task"
        )


def _count_groups(summary: DocumentSummary, rules: PackingRules) -> int:
    total = summary.num_bytes + summary.num_documents * DOCUMENT_BYTES
    return max(1, -(-total // rules.group_bytes))


def _group_documents(documents: DataFrame, task: str, num_groups: int) -> DataFrame:
    """doc_id, split, group, and the columns that the task reads."""
    columns = load_builder(task).columns
    missing = [name for name in columns if name not in documents.columns]
    if missing:
        raise ContractError(
            f"documents have no column {', '.join(missing)}, which dataset.task {task} reads; run the "
            "corpus stage again"
        )
    group = F.pmod(F.xxhash64("doc_id"), F.lit(num_groups)).cast("long").alias("group")
    return select_kept(documents).select("doc_id", "split", group, *columns)


def _count_tasks(spark: SparkSession, num_groups: int, rules: PackingRules) -> int:
    """As many as the session uses after a shuffle, more if a task would get over TASK_BYTES, never more than
    groups."""
    wanted = int(spark.conf.get("spark.sql.shuffle.partitions") or 200)
    return min(num_groups, max(wanted, -(-num_groups * rules.group_bytes // TASK_BYTES)))


def _deal_groups(documents: DataFrame, num_groups: int, num_tasks: int) -> DataFrame:
    """Neighbouring groups in one partition, about equally many in each, and every group in doc_id order."""
    task = F.expr(f"CAST(`group` * {num_tasks} DIV {num_groups} AS INT)")
    return documents.repartitionById(num_tasks, task).sortWithinPartitions("split", "group", "doc_id")


def _packed_schema() -> StructType:
    """SEQUENCES before its rows are numbered: a place within a group instead of sequence_id, and what is
    counted of each row."""
    fields = [StructField(field.name, field.dataType) for field in SEQUENCES.schema.fields[1:]]
    extra = [
        StructField(name, LongType()) for name in ("group", "position", "num_cut_tokens", "num_continued")
    ]
    return StructType([*fields, *extra])


def _count_by_group(packed: DataFrame) -> pa.Table:
    """split, group, and COUNTS, ordered by split and group. 60 bytes per group on the driver: 400 MB for 100
    TB of text."""
    sums = (
        F.count("*").alias("sequences"),
        F.sum("num_tokens").alias("tokens"),
        F.sum("num_cut_tokens").alias("cut_tokens"),
        F.sum("num_continued").alias("continued"),
        F.sum("num_targets").alias("targets"),
    )
    groups = packed.groupBy("split", "group").agg(*sums).toArrow()
    return groups.sort_by([("split", "ascending"), ("group", "ascending")])


def _count_by_split(groups: pa.Table) -> dict[str, dict[str, int]]:
    sums = groups.group_by("split").aggregate([(name, "sum") for name in COUNTS]).sort_by("split")
    return {row["split"]: {name: row[f"{name}_sum"] for name in COUNTS} for row in sums.to_pylist()}


def _number_groups(spark: SparkSession, groups: pa.Table) -> DataFrame:
    """split, group, first_id: where the numbers of each group start."""
    counts = groups["sequences"].to_numpy()  # (num_groups,)
    before = np.cumsum(counts) - counts  # (num_groups,) sequences of all groups above, of other splits too
    split = groups["split"].combine_chunks().dictionary_encode().indices.to_numpy()  # (num_groups,) ascending
    first_id = before - before[np.searchsorted(split, split)]
    columns = groups.select(["split", "group"]).append_column("first_id", pa.array(first_id, pa.int64()))
    # From Arrow: a local relation, which is broadcast without a Spark job.
    return spark.createDataFrame(columns)

"""Kept documents to rows of the sequences table: deal to groups, pack.

Documents fall into groups by their source, file and doc_id (layout.py); one task packs one group, in doc_id
order (group.py), and writes one file of each split. The number of a sequence is that of its group and its
position there, so it depends on the documents of the group alone: neither on the cluster nor on other groups.

Cost: one shuffle, of the text, in one Spark job with the writer of the table; nothing is cached.
"""

from collections.abc import Collection
from typing import NamedTuple

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema

from pipelines.dataset.documents import select_kept
from pipelines.dataset.examples.table import load_builder
from pipelines.dataset.group import PackingJob, make_partition_packer, require_builder
from pipelines.dataset.layout import Layout
from pipelines.dataset.packing.rules import PackingRules
from pipelines.dataset.tokenizer import ChosenTokenizer
from pipelines.delta import ContractError
from pipelines.tables import SEQUENCES

Counts = dict[str, dict[str, int]]
"""split -> COUNTED."""
COUNTED = {
    "sequences": "count(*)",
    "tokens": "sum(num_tokens)",
    "cut_tokens": "sum(num_cut_tokens)",
    "continued": "sum(num_continued)",
    "targets": "sum(num_targets)",
    "without_target": "count_if(num_targets = 0)",
    "units": "sum(size(doc_keys) - num_continued)",
}
"""What is counted of each split -> how, in SQL over SEQUENCES. continued: segments whose document begins in
another sequence; units: those that begin in one."""


class BuiltSequences(NamedTuple):
    """The rows of SEQUENCES. Nothing is computed before they are written or read."""

    rows: DataFrame
    job: PackingJob
    """How a group is packed."""


def build_sequences(
    documents: DataFrame,
    chosen: ChosenTokenizer,
    rules: PackingRules,
    *,
    task: str,
    labels: tuple[str, ...],
    layout: Layout,
    only: Collection[int] | None = None,
) -> BuiltSequences:
    """Rows of SEQUENCES from the kept documents of all groups, or of `only` some of them."""
    _require_fit(task, rules)
    describe_masking(chosen, task)  # before texts are read
    end_token_id = chosen.require_end_token(task) if load_builder(task).needs_end_token else None
    job = PackingJob(
        task=task,
        tokenizer_json=chosen.tokenizer.to_str(),
        end_token_id=end_token_id,
        labels=labels,
        rules=rules,
        chat=chosen.chat,
    )
    require_builder(job)
    groups = layout.groups if only is None else sorted(only)
    if not groups:
        return BuiltSequences(documents.sparkSession.createDataFrame([], SEQUENCES.schema), job)
    packed = (
        _select_columns(documents, task)
        .transform(find_groups, layout)
        .transform(_deal_groups, groups)
        .mapInArrow(make_partition_packer(job, to_arrow_schema(SEQUENCES.schema)), SEQUENCES.schema)
    )
    return BuiltSequences(packed, job)


def describe_masking(chosen: ChosenTokenizer, task: str) -> dict[str, int]:
    """What a training that masks tokens must know: mask_token_id, vocab_size. Empty for other tasks.

    Raises ValueError if the tokenizer has no mask token.
    """
    return chosen.list_masking(task) if load_builder(task).needs_mask_token else {}


def count_splits(sequences: DataFrame) -> Counts:
    """COUNTED of each split that has sequences, in the order of their names. One job, over small columns."""
    found = sequences.groupBy("split").agg(*sum_counts()).orderBy("split").collect()
    return {row["split"]: {name: row[name] for name in COUNTED} for row in found}


def sum_counts() -> list[Column]:
    """COUNTED, each under its name."""
    return [F.expr(sql).alias(name) for name, sql in COUNTED.items()]


def find_groups(documents: DataFrame, layout: Layout) -> DataFrame:
    """The documents with the number of their `group`. No shuffle: the layout is sent to every task."""
    small, own = (_to_places(documents.sparkSession, layout, has_file=has_file) for has_file in (False, True))
    name = F.when(F.col("own_groups").isNull(), F.col("file")).otherwise(F.col("doc_id"))
    numbers = F.coalesce("own_groups", "small_groups")
    part = F.pmod(F.xxhash64(name), F.size(numbers).cast("long")).cast("int")
    return (
        documents.join(F.broadcast(small), "source", "left")
        .join(F.broadcast(own), ["source", "file"], "left")
        .withColumn("group", F.get(numbers, part))
        .drop("own_groups", "small_groups")
    )


def _to_places(spark: SparkSession, layout: Layout, *, has_file: bool) -> DataFrame:
    """source, file (only of places with one), and the numbers of the groups."""
    chosen = [
        (source, file, list(numbers))
        for (source, file), numbers in layout.places.items()
        if (file is not None) == has_file
    ]
    name = "own_groups" if has_file else "small_groups"
    if not chosen:  # Spark Connect takes no empty Arrow table
        places = spark.createDataFrame([], f"source STRING, file STRING, {name} ARRAY<BIGINT>")
    else:
        schema = pa.schema([("source", pa.string()), ("file", pa.string()), (name, pa.list_(pa.int64()))])
        columns = dict(zip(schema.names, map(list, zip(*chosen, strict=True)), strict=True))
        # From Arrow: a local relation, which is broadcast without a Spark job.
        places = spark.createDataFrame(pa.table(columns, schema=schema))
    return places if has_file else places.drop("file")


def _require_fit(task: str, rules: PackingRules) -> None:
    fitting = load_builder(task).packing_methods
    if rules.method not in fitting:
        raise ValueError(
            f"dataset.packing.method {rules.method} does not fit dataset.task {task}; "
            f"set dataset.packing.method={' or '.join(fitting)}, or choose another task"
        )


def _select_columns(documents: DataFrame, task: str) -> DataFrame:
    """Kept documents: what groups depend on, and the columns that the task reads."""
    columns = load_builder(task).columns
    missing = [name for name in columns if name not in documents.columns]
    if missing:
        raise ContractError(
            f"documents have no column {', '.join(missing)}, which dataset.task {task} reads; run the "
            "corpus stage again"
        )
    return select_kept(documents).select("doc_id", "source", "file", "split", *columns)


def _deal_groups(documents: DataFrame, groups: list[int]) -> DataFrame:
    """One of the `groups`, ascending, in each partition, without documents of other ones; in the order in
    which it is packed."""
    spark = documents.sparkSession
    tasks = spark.createDataFrame(
        pa.table({"group": pa.array(groups, pa.int64()), "task": pa.array(range(len(groups)), pa.int32())})
    )
    return (
        documents.join(F.broadcast(tasks), "group")
        .repartitionById(len(groups), F.col("task"))
        .drop("task", "file")
        .sortWithinPartitions("split", "source", "doc_id")
    )

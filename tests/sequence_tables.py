"""A sequences table in the layout of the dataset stage, written without Spark."""

import hashlib

import numpy as np
import pyarrow as pa
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import ArrayType, IntegerType, LongType, StringType, StructField, StructType

from pipelines.commit import commit_shards, create_table
from pipelines.contract import PROPERTIES
from pipelines.dataset.doc_keys import make_doc_keys
from pipelines.dataset.layout import POSITION_BITS
from pipelines.pin import open_log, pin
from pipelines.shards import ShardFiles, ShardPlan

VOCABULARY = 64


def _struct(*integers, **others):
    fields = {**others, **dict.fromkeys(integers, IntegerType())}
    return StructType([StructField(name, kind) for name, kind in fields.items()])


SCHEMA = StructType(
    [
        StructField("sequence_id", LongType()),
        StructField("split", StringType()),
        StructField("source", StringType()),
        StructField("input_ids", ArrayType(IntegerType())),
        StructField("num_tokens", IntegerType()),
        StructField("label", IntegerType()),
        StructField("labels", ArrayType(IntegerType())),
        StructField("targets", ArrayType(_struct("first_token", "num_tokens"))),
        StructField("num_targets", IntegerType()),
        StructField("num_bytes", IntegerType()),
        StructField("num_cut_tokens", IntegerType()),
        StructField("num_continued", IntegerType()),
        StructField(
            "segments",
            ArrayType(_struct("first_token", "num_tokens", "char_start", "char_end", doc_id=StringType())),
        ),
        StructField("doc_keys", ArrayType(IntegerType())),
    ]
)
"""That of SEQUENCES, whose DDL only a JVM can read."""


def name_document(split, number):
    return hashlib.sha256(f"{split} {number}".encode()).hexdigest()[:32]


def make_rows(split, num_documents, *, num_groups, per_row=3):
    """Rows of SEQUENCES as dicts: up to `per_row` documents of one group each, in the order of group and id.
    Every fifth document continues in a second segment."""
    random = np.random.default_rng(num_documents)
    groups = {}
    for name in sorted(name_document(split, number) for number in range(num_documents)):
        groups.setdefault(int(name[:8], 16) % num_groups, []).append(name)
    return [
        _make_row(split, group << POSITION_BITS | position, documents[start : start + per_row], random)
        for group, documents in sorted(groups.items())
        for position, start in enumerate(range(0, len(documents), per_row))
    ]


def _make_row(split, sequence_id, documents, random):
    segments, first = [], 0
    for document in documents:
        num_tokens = int(random.integers(3, 8))
        pieces = (num_tokens,) if int(document, 16) % 5 else (1, num_tokens - 1)
        char = 0
        for piece in pieces:
            segments.append(
                {
                    "doc_id": document,
                    "first_token": first,
                    "num_tokens": piece,
                    "char_start": char,
                    "char_end": char + 4 * piece,
                }
            )
            first, char = first + piece, char + 4 * piece
    targets = [
        {"first_token": segment["first_token"] + 1, "num_tokens": segment["num_tokens"] - 1}
        for segment in segments
        if segment["num_tokens"] > 1
    ]
    return {
        "sequence_id": sequence_id,
        "split": split,
        "source": f"source {int(documents[0], 16) % 2}",
        "input_ids": random.integers(0, VOCABULARY, first).tolist(),
        "num_tokens": first,
        "label": None,
        "labels": None,
        "targets": targets,
        "num_targets": sum(run["num_tokens"] for run in targets),
        "num_bytes": 4 * first,
        "num_cut_tokens": 0,
        "num_continued": 0,
        "segments": segments,
        "doc_keys": make_doc_keys([segment["doc_id"] for segment in segments]).tolist(),
    }


def write_sequences_table(
    path, splits, *, rows_per_file=7, rows_per_group=3, shuffled=False, facts=None, lacks=()
):
    """Write the rows of each split; the pin. `shuffled`: as a program that moves rows between files.
    `lacks`: columns that an earlier Distributary did not write."""
    columns = StructType([column for column in SCHEMA if column.name not in lacks])
    schema = to_arrow_schema(columns)
    schema = pa.schema([pa.field(field.name, field.type) for field in schema])
    create_table(
        path,
        columns.json(),
        name="sequences",
        description="",
        partition_by=["split"],
        properties=dict(PROPERTIES),
    )
    plan = ShardPlan(table=path, folder="w", schema=schema, partition_by=("split",), row_group_bytes=1)
    shards = []
    for rows in splits.values():
        ordered = list(np.random.default_rng(1).permutation(rows)) if shuffled else rows
        for start in range(0, len(ordered), rows_per_file):
            files, stop = ShardFiles(plan), min(start + rows_per_file, len(ordered))
            for at in range(start, stop, rows_per_group):
                part = pa.RecordBatch.from_pylist(ordered[at : min(at + rows_per_group, stop)], schema=schema)
                files.add(part)  # a row group of its own
            shards += files.close()
    record = {
        "table": "sequences",
        "digest": "d" * 32,
        "num_rows": sum(map(len, splits.values())),
        "fingerprint": "f" * 32,
        "facts": facts or {},
        "last_foreign": -1,
        "number": 1,
        "folder": "w",
    }
    commit_shards(open_log(path), shards, replace=True, record=record)
    return pin(path)

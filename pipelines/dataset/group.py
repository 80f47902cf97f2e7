"""Groups of documents to packed rows, inside one task: encode, build examples, pack. No Spark here.

A task gets one group, in doc_id order within a split, and streams it: its memory here is one Arrow batch of
documents and one of rows, whatever the size of a group. Only best_fit holds the tokens of a group.

Of every group, the tokens of each document are counted before packing and after (packing/conservation.py).

A Python worker keeps its builder, and with it the parsed tokenizer, from one task to the next: the JSON of a
large tokenizer takes seconds to parse.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.dataset.chat_format import ChatFormat
from pipelines.dataset.doc_keys import make_doc_keys
from pipelines.dataset.examples.example import Document, Example, ExampleBuilder, ExampleSettings, Part
from pipelines.dataset.examples.table import load_builder
from pipelines.dataset.layout import POSITION_BITS
from pipelines.dataset.packing.conservation import TokenCount
from pipelines.dataset.packing.packed import PackedRows, PackedSequence, join_rows
from pipelines.dataset.packing.rules import PackingRules
from pipelines.dataset.packing.table import load_packer
from pipelines.dataset.tokenizer import from_json

BATCH_DOCUMENTS, BATCH_CHARS = 256, 1_000_000
"""Documents and characters encoded in one call: an encoding takes many times the memory of its text."""
BATCH_TOKENS, BATCH_ROWS = 500_000, 4_096
"""Tokens and rows that leave a task in one Arrow batch, about."""

Record = dict[str, Any]
"""A document as a Python dict."""
PartitionPacker = Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingJob:
    """All that packing a group depends on besides its documents; travels to the executors."""

    task: str
    tokenizer_json: str
    end_token_id: int | None
    labels: tuple[str, ...]
    rules: PackingRules
    chat: ChatFormat

    @property
    def may_leave_out(self) -> bool:
        """Whether the task may find nothing to learn in a document: it needs parts, which one may lack."""
        return "parts" in load_builder(self.task).columns


def make_partition_packer(job: PackingJob, schema: pa.Schema) -> PartitionPacker:
    """The function for mapInArrow, over documents that are sorted by split, group, source and doc_id: its
    rows are those of SEQUENCES, whose columns `schema` has."""

    def pack_partition(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        # Spark runs a task per core. A tokenizer that used all cores for each of them would only slow them
        # down.
        os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
        records = (record for batch in batches for record in _iterate_records(batch))
        for (split, number), group in groupby(records, key=lambda record: (record["split"], record["group"])):
            next_id = number << POSITION_BITS
            # Two sources in one group: two hashes that are equal. Their documents never share a sequence.
            for source, documents in groupby(group, key=lambda record: record["source"]):
                count = TokenCount()
                for sequences in _batch_rows(pack_documents(documents, job, count)):
                    rows = join_rows(sequences)
                    count.remove_rows(rows)
                    yield _to_batch(rows, schema, split=split, source=source, first_id=next_id)
                    next_id += len(sequences)
                count.require_balance(split=split, group=number, method=job.rules.method)

    return pack_partition


def pack_documents(
    documents: Iterable[Record], job: PackingJob, count: TokenCount
) -> Iterator[PackedSequence]:
    """Packed rows of the documents that can be learned from, whose tokens are added to `count`."""
    builder = _make_builder(job)

    def build_examples() -> Iterator[Example]:
        for batch in batch_documents(documents):
            yield from (example for example in builder.build(batch) if example.problem is None)

    return load_packer(job.rules.method)(
        count.add_examples(build_examples()), length=job.rules.sequence_length
    )


@lru_cache(maxsize=2)
def _make_builder(job: PackingJob) -> ExampleBuilder:
    cuts = job.rules.method == "one_per_document"
    settings = ExampleSettings(
        labels=job.labels,
        max_tokens=job.rules.sequence_length if cuts else None,
        end_token_id=job.end_token_id,
        chat=job.chat,
    )
    return load_builder(job.task)(from_json(job.tokenizer_json), settings)


def find_problems(records: Iterable[Record], job: PackingJob) -> Iterator[tuple[str, str | None]]:
    """(doc_id, why nothing can be learned from it) of each document; None = something can."""
    builder = _make_builder(job)
    for batch in batch_documents(records):
        for example in builder.build(batch):
            yield example.doc_id, example.problem


def require_builder(job: PackingJob) -> None:
    """Raise here what the builder of the task would raise in every Spark task: ValueError with the remedy."""
    if load_builder(job.task).is_chat:
        _make_builder(job)


def batch_documents(documents: Iterable[Record]) -> Iterator[list[Document]]:
    """Documents in order, at most BATCH_DOCUMENTS per batch and, beyond the first, at most BATCH_CHARS
    characters of text."""
    batch: list[Document] = []
    num_chars = 0
    for record in documents:
        document = _to_document(record)
        if batch and (len(batch) == BATCH_DOCUMENTS or num_chars + len(document.text) > BATCH_CHARS):
            yield batch
            batch, num_chars = [], 0
        batch.append(document)
        num_chars += len(document.text)
    if batch:
        yield batch


def _iterate_records(batch: pa.RecordBatch) -> Iterator[Record]:
    # One small slice at a time: Python strings of a whole batch would double its memory.
    for start in range(0, batch.num_rows, BATCH_DOCUMENTS):
        yield from batch.slice(start, BATCH_DOCUMENTS).to_pylist()


def _to_document(record: Record) -> Document:
    parts, metadata = record.get("parts"), record.get("metadata")
    return Document(
        doc_id=record["doc_id"],
        text=record["text"],
        label=record.get("label"),
        parts=tuple(Part(part["name"], part["text"]) for part in parts) if parts is not None else None,
        metadata=dict(metadata) if metadata is not None else None,
    )


def _batch_rows(sequences: Iterable[PackedSequence]) -> Iterator[list[PackedSequence]]:
    rows: list[PackedSequence] = []
    num_tokens = 0
    for sequence in sequences:
        rows.append(sequence)
        num_tokens += sum(len(unit.input_ids) for _, unit in sequence.pieces)
        if num_tokens >= BATCH_TOKENS or len(rows) >= BATCH_ROWS:
            yield rows
            rows, num_tokens = [], 0
    if rows:
        yield rows


def _to_batch(
    rows: PackedRows, schema: pa.Schema, *, split: str, source: str, first_id: int
) -> pa.RecordBatch:
    """Sequences `first_id`, `first_id` + 1, ... as Arrow. No Python step per token."""
    num_rows = len(rows.num_tokens)
    runs = {"first_token": rows.run_first_token, "num_tokens": rows.run_num_tokens}
    segments = {
        "doc_id": rows.segment_doc_ids,
        "first_token": rows.segment_first_token,
        "num_tokens": rows.segment_num_tokens,
        "char_start": rows.segment_char_start,
        "char_end": rows.segment_char_end,
    }
    columns: dict[str, Any] = {
        "sequence_id": np.arange(first_id, first_id + num_rows),
        "split": [split] * num_rows,
        "source": [source] * num_rows,
        "input_ids": _to_lists(pa.array(rows.input_ids), rows.num_tokens),
        "num_tokens": rows.num_tokens,
        "label": rows.labels,
        "labels": rows.label_sets,
        "targets": _to_lists(_to_structs(runs, schema.field("targets")), rows.num_runs),
        "num_targets": rows.num_targets,
        "num_bytes": rows.num_bytes,
        "num_cut_tokens": rows.num_cut_tokens,
        "num_continued": rows.num_continued,
        "segments": _to_lists(_to_structs(segments, schema.field("segments")), rows.num_segments),
        "doc_keys": _to_lists(pa.array(make_doc_keys(rows.segment_doc_ids)), rows.num_segments),
    }
    arrays = [_to_array(columns[field.name], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _to_structs(columns: dict[str, Any], field: pa.Field) -> pa.StructArray:
    kind = field.type.value_type
    children = [_to_array(columns[child.name], child.type) for child in kind]
    return pa.StructArray.from_arrays(children, fields=list(kind))


def _to_lists(values: pa.Array, counts: np.ndarray) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, values)


def _to_array(values: Any, kind: pa.DataType) -> pa.Array:
    """Raises ArrowInvalid if a number does not fit into its type."""
    if isinstance(values, pa.Array):
        return values if values.type == kind else values.cast(kind)
    return pa.array(values, kind)

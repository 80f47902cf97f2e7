"""One group of documents to packed rows, inside one task: encode, build examples, pack. No Spark here.

A Python worker keeps its builder, and with it the parsed tokenizer, from one group to the next: a big corpus
has many groups, and the JSON of a large tokenizer is slow to parse.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa

from pipelines.dataset.arrays import find_runs
from pipelines.dataset.examples.example import Document, Example, ExampleBuilder, ExampleSettings, Part
from pipelines.dataset.examples.table import load_builder
from pipelines.dataset.packing.packed import PackedSequence
from pipelines.dataset.packing.rules import PackingRules
from pipelines.dataset.packing.table import load_packer
from pipelines.dataset.tokenizer import from_json

BATCH_DOCUMENTS, BATCH_CHARS = 256, 1_000_000
"""Documents and characters encoded in one call: an encoding takes many times the memory of its text."""

GroupPacker = Callable[[tuple[pa.Scalar, ...], pa.Table], pa.Table]


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingJob:
    """All that packing a group depends on besides its documents; travels to the executors."""

    task: str
    tokenizer_json: str
    end_token_id: int | None
    labels: tuple[str, ...]
    rules: PackingRules


def make_group_packer(job: PackingJob, schema: pa.Schema) -> GroupPacker:
    """The function for applyInArrow, grouped by (split, group): its rows have `schema`."""

    def pack_group(key: tuple[pa.Scalar, ...], group: pa.Table) -> pa.Table:
        split, number = (part.as_py() for part in key)
        rows = [
            {"split": split, "group": number, "position": position, **_to_row(sequence)}
            for position, sequence in enumerate(pack_documents(group.sort_by("doc_id"), job))
        ]
        return pa.Table.from_pylist(rows, schema=schema)

    return pack_group


def pack_documents(documents: pa.Table, job: PackingJob) -> Iterator[PackedSequence]:
    """Packed rows of the documents, in their order."""
    builder = _make_builder(job)

    def build_examples() -> Iterator[Example]:
        for batch in batch_documents(documents):
            yield from builder.build(batch)

    return load_packer(job.rules.method)(build_examples(), length=job.rules.sequence_length)


@lru_cache(maxsize=2)
def _make_builder(job: PackingJob) -> ExampleBuilder:
    cuts = job.rules.method == "one_per_document"
    settings = ExampleSettings(
        labels=job.labels,
        max_tokens=job.rules.sequence_length if cuts else None,
        end_token_id=job.end_token_id,
    )
    return load_builder(job.task)(from_json(job.tokenizer_json), settings)


def batch_documents(documents: pa.Table) -> Iterator[list[Document]]:
    """Documents in order, at most BATCH_DOCUMENTS per batch and, beyond the first, at most BATCH_CHARS
    characters of text."""
    batch: list[Document] = []
    num_chars = 0
    for record in _iterate_records(documents):
        document = _to_document(record)
        if batch and (len(batch) == BATCH_DOCUMENTS or num_chars + len(document.text) > BATCH_CHARS):
            yield batch
            batch, num_chars = [], 0
        batch.append(document)
        num_chars += len(document.text)
    if batch:
        yield batch


def _iterate_records(documents: pa.Table) -> Iterator[dict[str, Any]]:
    # One small slice at a time: Python strings of a whole group would double its memory.
    for batch in documents.to_batches(max_chunksize=BATCH_DOCUMENTS):
        yield from batch.to_pylist()


def _to_document(record: dict[str, Any]) -> Document:
    parts, metadata = record.get("parts"), record.get("metadata")
    return Document(
        doc_id=record["doc_id"],
        text=record["text"],
        label=record.get("label"),
        parts=tuple(Part(part["name"], part["text"]) for part in parts) if parts is not None else None,
        metadata=dict(metadata) if metadata is not None else None,
    )


def _to_row(sequence: PackedSequence) -> dict[str, Any]:
    """The columns of SEQUENCES that do not depend on where the row stands.

    A class is one term of the loss, and the bytes behind it are those of the whole text.
    """
    targets, label = sequence.is_target, sequence.label
    num_bytes = sequence.num_bytes.sum() if label is not None else sequence.num_bytes[targets].sum()
    return {
        "input_ids": sequence.input_ids,
        "num_tokens": len(sequence.input_ids),
        "label": label,
        "targets": _to_structs(("first_token", "num_tokens"), find_runs(targets)),
        "num_targets": int(targets.sum()) + (label is not None),
        "num_bytes": int(num_bytes),
        "segments": [segment._asdict() for segment in sequence.segments],
        "num_cut_tokens": sequence.num_cut_tokens,
    }


def _to_structs(names: tuple[str, ...], values: Sequence[tuple[int, ...]]) -> list[dict[str, int]]:
    return [dict(zip(names, each, strict=True)) for each in values]

"""Documents that teach nothing: left out of the sequences, with the reason, or in them without a target.

A task says so beside its rows: a row of `REMARK_COLUMNS` alone for each such document. left_out.py counts
them. No Spark here.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from pipelines.dataset.examples.example import Example

REMARK_COLUMNS = ("doc_id", "problem")
"""Null in the rows of sequences. problem: why the document was left out; null = none of its tokens is a
target."""
_NUM_SHOWN = 3


class Remark(NamedTuple):
    doc_id: str
    problem: str | None


class Remarks:
    """The remarks on the documents of one group."""

    def __init__(self) -> None:
        self._found: list[Remark] = []

    def take_learnable(self, examples: Iterable[Example]) -> Iterator[Example]:
        """The examples that can be learned from."""
        for example in examples:
            if example.problem is not None:
                self._found.append(Remark(example.doc_id, example.problem))
                continue
            if example.label is None and not any(unit.is_target.any() for unit in example.units):
                self._found.append(Remark(example.doc_id, None))
            yield example

    def to_batches(self, schema: pa.Schema, *, split: str, group: int) -> Iterator[pa.RecordBatch]:
        """One row per remark; no batch if there are none."""
        if not self._found:
            return
        size = len(self._found)
        known = {
            "split": [split] * size,
            "group": [group] * size,
            "doc_id": [each.doc_id for each in self._found],
            "problem": [each.problem for each in self._found],
        }
        columns = [
            pa.array(known[field.name], field.type) if field.name in known else pa.nulls(size, field.type)
            for field in schema
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def describe_reasons(reasons: Sequence[dict[str, Any]]) -> str:
    """The most frequent reasons, each with the first document."""
    return "; ".join(
        f"{each['documents']:,} x such as document {each['doc_ids'][0]}: {each['reason']}"
        for each in reasons[:_NUM_SHOWN]
    )

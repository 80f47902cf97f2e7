"""One row per document: all units of an example share a row, and no two documents do.

A model sees one unit at a time, so `length` bounds each unit. A row of several units may be longer."""

from collections.abc import Iterable, Iterator

from pipelines.dataset.examples.example import Example
from pipelines.dataset.packing.packed import PackedSequence


def pack_one_per_document(examples: Iterable[Example], *, length: int) -> Iterator[PackedSequence]:
    """Rows in the order of the examples.

    Raises ValueError if a unit is longer than `length`: its builder must cut it, since only the builder
    knows which tokens have to stay.
    """
    for example in examples:
        units = [unit for unit in example.units if len(unit.input_ids)]
        if not units:
            raise ValueError(f"document {example.doc_id} has no tokens; its builder must give at least one")
        longest = max(len(unit.input_ids) for unit in units)
        if longest > length:
            raise ValueError(
                f"document {example.doc_id} has a unit of {longest} tokens, at most {length} fit; "
                "let the example builder cut it (max_tokens) or raise dataset.packing.sequence_length"
            )
        yield PackedSequence(
            [(example.doc_id, unit) for unit in units], example.label, example.num_cut_tokens
        )

"""How many documents a task may leave out of the sequences. No Spark here."""

from collections.abc import Collection
from typing import NamedTuple

_NUM_SHOWN = 3


class LeftOut(NamedTuple):
    """A document that is in no sequence."""

    doc_id: str
    reason: str


def require_few_left_out(
    num_left_out: int, num_documents: int, named: Collection[LeftOut], *, max_fraction: float
) -> None:
    """Raises ValueError, before anything is written, if more than max_fraction of the documents were left
    out."""
    if num_left_out <= max_fraction * num_documents:
        return
    described = "; ".join(f"document {each.doc_id}: {each.reason}" for each in list(named)[:_NUM_SHOWN])
    raise ValueError(
        f"dataset: {num_left_out:,} of {num_documents:,} documents cannot be learned from, more than "
        f"dataset.max_left_out_fraction = {max_fraction:g}, and sequences were not written. "
        f"{f'The first ones: {described}; to' if described else 'To'} accept the loss, raise the fraction"
    )

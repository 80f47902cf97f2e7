"""How many documents a task may leave out of the sequences. No Spark here."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from pipelines.dataset.examples.table import load_builder
from pipelines.pin import Pin

_NUM_SHOWN = 3


class LeftOut(NamedTuple):
    """A document that is in no sequence."""

    doc_id: str
    reason: str


def count_packed(counts: Mapping[str, Mapping[str, int]], task: str) -> int:
    """Documents in the sequences, from `build.Counts`. A task that makes several units of a document keeps
    them in a row of its own; of other tasks, a document is a unit."""
    has_own_rows = load_builder(task).packing_methods == ("one_per_document",)
    return sum(of["sequences" if has_own_rows else "units"] for of in counts.values())


def require_few_left_out(
    num_left_out: int,
    num_documents: int,
    named: Collection[LeftOut],
    *,
    max_fraction: float,
    state: str = "sequences were not written",
) -> None:
    """Raises ValueError if more than max_fraction of the documents were left out. `state`: of the table."""
    if num_left_out <= max_fraction * num_documents:
        return
    described = "; ".join(f"document {each.doc_id}: {each.reason}" for each in list(named)[:_NUM_SHOWN])
    raise ValueError(
        f"dataset: {num_left_out:,} of {num_documents:,} documents cannot be learned from, more than "
        f"dataset.max_left_out_fraction = {max_fraction:g}, and {state}. "
        f"{f'The first ones: {described}; to' if described else 'To'} accept the loss, raise the fraction"
    )


def require_few_committed(sequences: Pin, max_fraction: float) -> None:
    """As `require_few_left_out`, for sequences that were written, maybe with another limit."""
    left_out = sequences.facts["left_out"]
    if not left_out["documents"]:
        return
    num_packed = count_packed(sequences.facts["splits"], sequences.facts["task"])
    require_few_left_out(
        left_out["documents"],
        num_packed + left_out["documents"],
        [LeftOut(**each) for each in left_out["first"]],
        max_fraction=max_fraction,
        state=f"version {sequences.version} of {sequences.path} was written without them",
    )

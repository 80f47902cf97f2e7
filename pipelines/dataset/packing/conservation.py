"""The count that no packing method may break: tokens in = tokens out, for every document of a group.

What builders give is compared with the joined rows, which are what is written. Two numbers per document are
kept, the tokens and the sum of their ids: so a token shows that is lost, repeated, or replaced by one of
another document. Cost: two additions per token. Memory: the documents that are not complete yet.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from pipelines.dataset.examples.example import Example
from pipelines.dataset.packing.packed import PackedRows
from pipelines.delta import ContractError


class TokenCount:
    """The tokens of one group that builders gave and that are in no row yet."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[int, int]] = {}
        self._num_cut_tokens = 0

    def add_examples(self, examples: Iterable[Example]) -> Iterator[Example]:
        """The examples themselves, counted as they pass."""
        for example in examples:
            for unit in example.units:
                self._change(example.doc_id, len(unit.input_ids), int(unit.input_ids.sum(dtype=np.int64)))
            self._num_cut_tokens += example.num_cut_tokens
            yield example

    def remove_rows(self, rows: PackedRows) -> None:
        """Count the tokens of rows that leave the group."""
        if int(rows.segment_num_tokens.sum()) != len(rows.input_ids):
            raise ContractError(
                f"sequences: segments name {int(rows.segment_num_tokens.sum()):,} of {len(rows.input_ids):,} "
                "tokens; the packing method is wrong, report it"
            )
        starts = np.cumsum(rows.segment_num_tokens) - rows.segment_num_tokens
        sums = np.add.reduceat(rows.input_ids, starts, dtype=np.int64)  # (num_segments,)
        segments = (rows.segment_doc_ids, rows.segment_num_tokens.tolist(), sums.tolist())
        for doc_id, num_tokens, sum_of_ids in zip(*segments, strict=True):
            self._change(doc_id, -num_tokens, -sum_of_ids)
        self._num_cut_tokens -= int(rows.num_cut_tokens.sum())

    def require_balance(self, *, split: str, group: int, method: str) -> None:
        """Raises ContractError unless every token that was added has been removed once."""
        remedy = (
            f"the packing method {method} is wrong: take another one in dataset.packing.method, and report it"
        )
        if self._open:
            doc_id, (num_tokens, _) = min(self._open.items())
            fault = f"{num_tokens:+,} tokens" if num_tokens else "other tokens than it had"
            raise ContractError(
                f"sequences: group {group} of {split} does not hold every token once; {len(self._open):,} "
                f"documents differ, first document {doc_id}: {fault} left over; {remedy}"
            )
        if self._num_cut_tokens:
            raise ContractError(
                f"sequences: group {group} of {split} has {self._num_cut_tokens:+,} tokens cut off that no "
                f"sequence counts; {remedy}"
            )

    def _change(self, doc_id: str, num_tokens: int, sum_of_ids: int) -> None:
        tokens, ids = self._open.get(doc_id, (0, 0))
        left = (tokens + num_tokens, ids + sum_of_ids)
        if left == (0, 0):
            self._open.pop(doc_id, None)
        else:
            self._open[doc_id] = left

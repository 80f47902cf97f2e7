"""Queries against all candidates of a batch. Shapes: N texts, H hidden, Q queries, C candidates.

The texts of a row follow each other: a query, its positive, its negatives. Every positive and every negative
of the batch is a candidate of every query. A candidate that answers a query although it stands in another row
is no negative: it is hidden from the query. It is known by its content: a query of the same tokens has a
positive of the same tokens somewhere in the batch (van den Oord 2018 for the loss; Qu 2021, RocketQA, for
what false negatives cost).
"""

import hashlib
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

QUERY, POSITIVE, NEGATIVE = 0, 1, 2
"""Roles of texts."""


class Scores(NamedTuple):
    """What a batch says of its queries."""

    cosines_QC: Tensor
    """-inf where a candidate is hidden."""
    positive_Q: Tensor
    """The candidate that is the positive of each query. Never hidden from it."""


def mark_texts(num_texts: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """(N, 2) int64: role and content of each text, for rows of so many texts each (at least 2)."""
    starts = np.cumsum(num_texts) - num_texts  # (num_rows,)
    roles = np.full(len(keys), NEGATIVE)
    roles[starts], roles[starts + 1] = QUERY, POSITIVE
    return np.stack([roles, keys], axis=1).astype(np.int64)


def hash_tokens(tokens: np.ndarray) -> int:
    """63 bits that depend on the tokens alone. Two texts of a batch that share them by chance would hide a
    candidate that they need not: of 10,000 texts, some do so once in 10**11 batches."""
    digest = hashlib.blake2b(tokens.astype("<i4").tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def score_candidates(vectors_NH: Tensor, marks_N2: Tensor) -> Scores:
    """Every query against every candidate. O(Q C H), and O(Q C) memory."""
    roles_N, keys_N = marks_N2.unbind(1)
    queries = (roles_N == QUERY).nonzero().squeeze(1)  # (Q,) places among all texts
    candidates = (roles_N != QUERY).nonzero().squeeze(1)  # (C,)
    positive_Q = torch.searchsorted(candidates, queries + 1)
    cosines_QC = vectors_NH[queries] @ vectors_NH[candidates].T
    hidden_QC = _find_answers(keys_N[queries], keys_N[candidates], positive_Q)
    hidden_QC[torch.arange(len(queries), device=queries.device), positive_Q] = False
    return Scores(cosines_QC.masked_fill(hidden_QC, -torch.inf), positive_Q)


def find_ranks(scores: Scores) -> Tensor:
    """(Q,) float64: place of the positive among the candidates that are not hidden, from 1. A tie counts
    against it, so that equal vectors for all texts give the last place and not the first. NaN where a cosine
    is NaN: no comparison with it is true, so the place would look better than it is."""
    own_Q1 = scores.cosines_QC.gather(1, scores.positive_Q[:, None])
    ranks_Q = (scores.cosines_QC >= own_Q1).sum(1).double()
    return ranks_Q.masked_fill(scores.cosines_QC.isnan().any(1), torch.nan)


def count_first(ranks_Q: Tensor) -> Tensor:
    """How many ranks are 1; a float64 scalar, NaN if a rank is."""
    return torch.where(ranks_Q.isnan(), ranks_Q, (ranks_Q == 1).double()).sum()


def _find_answers(query_keys_Q: Tensor, candidate_keys_C: Tensor, positive_Q: Tensor) -> Tensor:
    """(Q, C) bool: some row of the batch has a query and a positive with this content."""
    query_Q = torch.unique(query_keys_Q, return_inverse=True)[1]
    candidate_C = torch.unique(candidate_keys_C, return_inverse=True)[1]
    # A table of the different contents: no pair is compared with another pair.
    shape = (len(query_Q), len(candidate_C))
    answers = torch.zeros(shape, dtype=torch.bool, device=query_Q.device)
    answers[query_Q, candidate_C[positive_Q]] = True
    return answers[query_Q][:, candidate_C]

"""Which tokens of a sequence are masked, and what stands in their place. NumPy only.

A pure function of (seed, step, sequence, position): no random state, so masks are the same on any number of
ranks, in any micro-batch, and after a restart. Of a sequence with n tokens that may be masked, exactly
max(1, round(fraction * n)) are, as in BERT (Devlin 2019). So the number of targets of a global batch follows
from the table, and no rank draws the masks of another one.

Each position gets three numbers of a SplitMix64 stream (Steele 2014) whose state is a hash of (seed, step,
sequence). The positions with the smallest first numbers are masked; the second decides what stands there
(80 % the mask token, 10 % a random token, 10 % the token itself), the third is the random token.
Cost: O(n log n).
"""

from typing import NamedTuple

import numpy as np

MASK_SHARE, RANDOM_SHARE = 0.8, 0.1
"""Of the masked tokens: those that become the mask token, and those that become a random one. The others
stay, so that the model can't know which tokens it is asked for."""
NUMBERS = 3
"""Of the stream, for each position."""
_WEYL = np.uint64(0x9E3779B97F4A7C15)  # the increment of SplitMix64
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class MaskRule(NamedTuple):
    """How tokens are masked."""

    fraction: float
    """Share of the tokens that may be masked."""
    mask_token_id: int
    vocab_size: int
    """Random tokens are drawn from the ids below."""


def count_masked(num_candidates: np.ndarray, fraction: float) -> np.ndarray:
    """(num_rows,) int64: masked tokens of rows with so many that may be. At least 1 where there is one."""
    wanted = np.rint(num_candidates * fraction).astype(np.int64)
    return np.minimum(np.maximum(wanted, 1), num_candidates)


def mask_tokens(
    tokens: np.ndarray, is_candidate: np.ndarray, rule: MaskRule, *, seed: int, step: int, sequence: int
) -> tuple[np.ndarray, np.ndarray]:
    """(what the model sees, (num_tokens,); the masked positions, ascending) of one sequence. Ties between
    numbers go to the smaller position."""
    places = np.flatnonzero(is_candidate)  # (num_candidates,)
    num_masked = int(count_masked(np.array([len(places)]), rule.fraction)[0])
    choice, kind, token = _draw(places, seed, step, sequence)  # (num_candidates,) each
    chosen = np.sort(np.argsort(choice, kind="stable")[:num_masked])  # (num_masked,)

    share = _to_unit(kind[chosen])
    random_ids = (_to_unit(token[chosen]) * rule.vocab_size).astype(tokens.dtype)
    masked = places[chosen]
    written = np.where(share < MASK_SHARE, tokens.dtype.type(rule.mask_token_id), tokens[masked])
    is_random = (share >= MASK_SHARE) & (share < MASK_SHARE + RANDOM_SHARE)
    seen = tokens.copy()
    seen[masked] = np.where(is_random, random_ids, written)
    return seen, masked


def _draw(places: np.ndarray, seed: int, step: int, sequence: int) -> np.ndarray:
    """(NUMBERS, num_places) uint64 of the stream of a sequence."""
    state = np.zeros(1, dtype=np.uint64)
    for word in (seed, step, sequence):
        state = _mix(state + np.uint64(word & 0xFFFF_FFFF_FFFF_FFFF) + _WEYL)
    index = (
        places.astype(np.uint64)[None] * np.uint64(NUMBERS)
        + np.arange(1, NUMBERS + 1, dtype=np.uint64)[:, None]
    )
    return _mix(state + index * _WEYL)


def _mix(values: np.ndarray) -> np.ndarray:
    mixed = (values ^ (values >> np.uint64(30))) * _MIX_1
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
    return mixed ^ (mixed >> np.uint64(31))


def _to_unit(numbers: np.ndarray) -> np.ndarray:
    """float64 in [0, 1): the upper 53 bits."""
    return (numbers >> np.uint64(11)) * 2.0**-53

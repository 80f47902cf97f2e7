"""Which tokens are masked: equal to a twin that knows no arrays, in the shares of BERT."""

import math

import numpy as np
import pytest

from pipelines.finetune.tasks.masking import MaskRule, count_masked, mask_tokens

RULE = MaskRule(fraction=0.15, mask_token_id=999, vocab_size=500)
BITS = 2**64 - 1


def split_mix(state: int) -> int:
    """The output function of SplitMix64 (Steele 2014), on Python's integers."""
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & BITS
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & BITS
    return state ^ (state >> 31)


def mask_by_hand(tokens, is_candidate, rule, *, seed, step, sequence):
    """The twin: one token after the other."""
    state, weyl = 0, 0x9E3779B97F4A7C15
    for word in (seed, step, sequence):
        state = split_mix(state + word + weyl & BITS)
    drawn = {
        place: [split_mix(state + (3 * place + number) * weyl & BITS) for number in (1, 2, 3)]
        for place in range(len(tokens))
        if is_candidate[place]
    }
    num_masked = min(len(drawn), max(1, round(len(drawn) * rule.fraction)))
    masked = sorted(sorted(drawn, key=lambda place: (drawn[place][0], place))[:num_masked])
    seen = list(tokens)
    for place in masked:
        share, random_id = ((number >> 11) / 2**53 for number in drawn[place][1:])
        if share < 0.8:
            seen[place] = rule.mask_token_id
        elif share < 0.9:
            seen[place] = math.floor(random_id * rule.vocab_size)
    return seen, masked


def make_sequence(num_tokens, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, 500, num_tokens).astype(np.int32), random.random(num_tokens) < 0.9


@pytest.mark.parametrize("num_tokens", [1, 2, 7, 64, 500])
@pytest.mark.parametrize("seed", [0, 3, 2**63 - 1])
def test_masks_equal_those_of_the_twin(num_tokens, seed):
    tokens, is_candidate = make_sequence(num_tokens)
    for step, sequence in ((0, 0), (1, 0), (0, 1), (123_456, 2**62)):
        words = {"seed": seed, "step": step, "sequence": sequence}
        seen, masked = mask_tokens(tokens, is_candidate, RULE, **words)
        expected = mask_by_hand(tokens.tolist(), is_candidate.tolist(), RULE, **words)
        assert (seen.tolist(), masked.tolist()) == expected
        assert (seen.dtype, len(masked) > 0) == (np.int32, bool(is_candidate.any()))


def test_masks_have_the_shares_of_bert():
    tokens, is_candidate = np.full(1_000, 7, np.int32), np.arange(1_000) < 800
    rows = [mask_tokens(tokens, is_candidate, RULE, seed=0, step=0, sequence=each) for each in range(500)]
    seen = np.concatenate([written[masked] for written, masked in rows])  # (60,000,)
    assert {len(masked) for _, masked in rows} == {120}  # 15 % of 800
    # Standard deviation of a share of 60,000: at most 0.0017. A random token is the token itself once in 500.
    assert (seen == 999).mean() == pytest.approx(0.8, abs=0.01)
    assert (seen == 7).mean() == pytest.approx(0.1 + 0.1 / 500, abs=0.008)
    drawn = seen[(seen != 999) & (seen != 7)]
    assert drawn.min() >= 0
    assert drawn.max() < 500
    assert len(set(drawn.tolist())) > 480  # of 499, each drawn about 12 times
    # Every position alike: each is masked in about 75 of 500 rows; six standard deviations are 48.
    counts = np.bincount(np.concatenate([masked for _, masked in rows]), minlength=1_000)
    assert 27 < counts[:800].min() <= counts[:800].max() < 123
    assert counts[800:].sum() == 0


def test_only_masked_tokens_change():
    tokens, is_candidate = make_sequence(300)
    before = tokens.copy()
    seen, masked = mask_tokens(tokens, is_candidate, RULE, seed=1, step=2, sequence=3)
    changed = np.flatnonzero(seen != tokens)
    assert set(changed.tolist()) <= set(masked.tolist())
    assert len(changed) > len(masked) / 2
    assert is_candidate[masked].all()
    assert np.array_equal(tokens, before)  # a view of the memory map: it must not be written


def test_every_step_and_sequence_masks_others():
    tokens, is_candidate = make_sequence(200)
    words = [(seed, step, sequence) for seed in (0, 1) for step in (0, 1) for sequence in (0, 1)]
    found = {
        tuple(mask_tokens(tokens, is_candidate, RULE, seed=a, step=b, sequence=c)[1].tolist())
        for a, b, c in words
    }
    assert len(found) == len(words)


@pytest.mark.parametrize(
    ("num_candidates", "fraction", "expected"),
    [(0, 0.15, 0), (1, 0.15, 1), (3, 0.15, 1), (11, 0.15, 2), (20, 0.15, 3), (100, 0.15, 15), (7, 0.99, 7)],
)
def test_the_number_of_masked_tokens(num_candidates, fraction, expected):
    assert count_masked(np.array([num_candidates]), fraction).tolist() == [expected]
    rule = RULE._replace(fraction=fraction)
    tokens = np.zeros(num_candidates, np.int32)
    masked = mask_tokens(tokens, tokens == 0, rule, seed=0, step=0, sequence=0)[1]
    assert len(masked) == expected

"""Which candidates a search tries: one generator for each method.

A generator yields a round of candidates and is sent their scores in the same order; the next round may depend
on them. Candidates are pure functions of rules, space and scores, so a search that is run again proposes the
same ones, and nothing but the scores need be kept.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any

from pipelines.finetune.search.rules import Choice, Method, Range, SearchRules, Settings, Space, Value
from pipelines.finetune.search.score import Candidate, Rounds, rank

MAX_GRID = 1000
"""Candidates of a grid: ten values of three keys."""
MAX_DRAWS = 100
"""Draws of a candidate, until it is another one than those before it."""


def propose_grid(rules: SearchRules, space: Space) -> Rounds:
    """Every combination; the last key changes first."""
    lists = [values for values in space.values() if isinstance(values, tuple)]
    assert len(lists) == len(space), "the rules refuse a range"
    num_candidates = math.prod(map(len, lists))
    if num_candidates > MAX_GRID:
        raise ValueError(
            f"finetune.search.space must have at most {MAX_GRID} combinations for method grid, got "
            f"{num_candidates}; shorten its lists, or take method random"
        )
    settings = (dict(zip(space, values, strict=True)) for values in itertools.product(*lists))
    yield [Candidate(number=number, settings=each) for number, each in enumerate(settings)]


def propose_random(rules: SearchRules, space: Space) -> Rounds:
    """num_trials different draws, or as many as the space has."""
    yield draw_candidates(rules, space)


def propose_halving(rules: SearchRules, space: Space) -> Rounds:
    """Successive halving (Jamieson and Talwalkar 2016): the best of each round go on with more epochs.

    Each round trains anew, because the learning rate of every step depends on the length of the training.
    """
    going_on = draw_candidates(rules, space)
    for rung, (size, fraction) in enumerate(plan_rounds(rules, len(going_on))):
        scores = yield [
            Candidate(number=each.number, settings=each.settings, rung=rung, epochs_fraction=fraction)
            for each in going_on[:size]
        ]
        going_on = [score.candidate for score in rank(scores)]


def propose_optuna(rules: SearchRules, space: Space) -> Rounds:
    """Candidates of Optuna's sampler, in batches; see `optuna_rounds`."""
    from pipelines.finetune.search.optuna_rounds import propose

    yield from propose(rules, space)


PROPOSERS: dict[Method, Callable[[SearchRules, Space], Rounds]] = {
    "grid": propose_grid,
    "random": propose_random,
    "halving": propose_halving,
    "optuna": propose_optuna,
}


def describe_lack(rules: SearchRules, num_drawn: int) -> str | None:
    """What a person must know if the space has fewer candidates than the rules ask for; None if it has
    enough."""
    if rules.method not in ("random", "halving") or num_drawn >= rules.num_trials:
        return None
    return (
        f"finetune.search.space has only {num_drawn} different candidates, and num_trials is "
        f"{rules.num_trials}: each is tried once"
    )


def plan_rounds(rules: SearchRules, num_candidates: int) -> list[tuple[int, float]]:
    """(candidates, share of num_epochs) of each round of halving. The last round is trained in full."""
    most = min(num_candidates, math.floor(1 / rules.min_epochs_fraction + 1e-9))
    num_steps = 0
    while rules.halving_factor ** (num_steps + 1) <= most:
        num_steps += 1
    return [
        (num_candidates // rules.halving_factor**step, float(rules.halving_factor) ** (step - num_steps))
        for step in range(num_steps + 1)
    ]


def draw_candidates(rules: SearchRules, space: Space) -> list[Candidate]:
    """num_trials different candidates, or as many as the space has.

    Each value depends on seed, number of the candidate and key alone, so another key leaves the values that
    are there as they are. A candidate that is equal to one before it is drawn again; those before it stay, so
    more trials leave all that are there as they are.
    """
    candidates: list[Candidate] = []
    known: set[str] = set()
    for number in range(rules.num_trials):
        settings = _draw_another(rules.seed, number, space, known)
        if settings is None:
            break
        known.add(repr(settings))
        candidates.append(Candidate(number=number, settings=settings))
    return candidates


def _draw_another(seed: int, number: int, space: Space, known: set[str]) -> Settings | None:
    """Settings that are not among the known ones, by their representation; None if there are no others."""
    for again in range(MAX_DRAWS):
        parts = (again,) if again else ()
        drawn = {key: _draw(values, _uniform(seed, number, key, *parts)) for key, values in space.items()}
        if repr(drawn) not in known:
            return drawn
    # After so many draws few combinations are left, or none: take the first one.
    return next((each for each in _list_combinations(space) if repr(each) not in known), None)


def _list_combinations(space: Space) -> Iterator[Settings]:
    """All combinations; none if a range has values between whole numbers."""
    lists = [_list_values(values) for values in space.values()]
    return (dict(zip(space, values, strict=True)) for values in itertools.product(*lists))


def _list_values(values: Range | Choice) -> Sequence[Value]:
    if isinstance(values, tuple):
        return values
    return range(int(values.low), int(values.high) + 1) if values.integer else ()


def _uniform(*parts: Any) -> float:
    """In [0, 1), 53 bits of a hash of the parts."""
    digest = blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def _draw(values: Range | Choice, uniform: float) -> Value:
    if isinstance(values, tuple):
        return values[int(uniform * len(values))]
    low, high = values.low, values.high
    if values.integer:
        if not values.log:
            return int(low) + int(uniform * (high - low + 1))
        return min(int(high), int(math.exp(_between(math.log(low), math.log(high + 1), uniform))))
    drawn = math.exp(_between(math.log(low), math.log(high), uniform)) if values.log else 0.0
    # Four digits: they are printed as overrides, and a fifth one changes nothing that can be measured.
    shown = float(f"{drawn if values.log else _between(low, high, uniform):.4g}")
    return min(high, max(low, shown))


def _between(low: float, high: float, share: float) -> float:
    return low + share * (high - low)

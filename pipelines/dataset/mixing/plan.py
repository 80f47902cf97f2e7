"""From the shares that are asked for to sequences of each source: the plan of a training, before it starts.

Shares are of tokens, and a step takes sequences. So a source gets sequences in proportion to its share
divided by its mean number of tokens. A training has as many steps as without a mixture: num_epochs passes
over the sequences that are used; the shares say which sequences fill them. The last global batch is filled
up, as without a mixture; only for this may a source be read a little more often than max_repeats.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipelines.dataset.mixing.division import Division, TooManyPassesError
from pipelines.dataset.mixing.rules import SUM_TOLERANCE, Mixture
from pipelines.dataset.order import num_steps


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceCount:
    """What a split has of one source."""

    source: str
    num_sequences: int
    num_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcePlan:
    """What a training reads of one source."""

    source: str
    num_sequences: int
    """Sequences that the split has of it."""
    num_used: int
    """Different sequences that may be read; 0 = the source is left out."""
    num_planned: int
    """Sequences that the training reads, repetitions included."""
    share: float
    """Of all tokens that the training reads, expected."""
    is_limited: bool
    """Whether max_repeats made it smaller."""

    @property
    def repeats(self) -> float:
        """Passes over the sequences that are used."""
        return self.num_planned / self.num_used if self.num_used else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class MixturePlan:
    """What a training reads of every source of the split, in the order of their names."""

    sources: tuple[SourcePlan, ...]
    id: str = ""
    """Names the plan in the table of mixtures."""

    def identity(self) -> list[list[Any]]:
        """The part that the order of the training depends on."""
        return [[each.source, each.num_sequences, each.num_used, each.num_planned] for each in self.sources]

    @property
    def num_planned(self) -> int:
        """Sequences of the whole training: steps x global batch."""
        return sum(each.num_planned for each in self.sources)

    def describe(self) -> dict[str, str]:
        """One line per source for a person."""
        return {f"source {each.source}": _describe(each) for each in self.sources}


def plan_mixture(
    mixture: Mixture, counts: Sequence[SourceCount], *, num_epochs: float, global_batch: int
) -> MixturePlan:
    """The plan of a training on sources with `counts`, which each have a sequence.

    Raises ValueError if a source does not exist, if the shares do not add up, or if a source would be
    repeated too often, with the values that fit.
    """
    counts = sorted(counts, key=lambda count: count.source)
    _require_sources(mixture, [count.source for count in counts])
    try:
        division, planned, limited = _divide(mixture, counts, num_epochs, global_batch)
    except TooManyPassesError as refusal:
        remedies = _find_remedies(refusal, mixture, counts, num_epochs, global_batch)
        raise ValueError(f"finetune.mixture: {refusal}; {', '.join(remedies)}") from None
    used, means = division.used, division.means
    tokens = {source: number * means[source] for source, number in planned.items()}
    return MixturePlan(
        sources=tuple(
            SourcePlan(
                source=count.source,
                num_sequences=count.num_sequences,
                num_used=used.get(count.source, 0),
                num_planned=planned.get(count.source, 0),
                share=tokens.get(count.source, 0.0) / sum(tokens.values()),
                is_limited=count.source in limited,
            )
            for count in counts
        )
    )


def _divide(
    mixture: Mixture, counts: Sequence[SourceCount], num_epochs: float, global_batch: int
) -> tuple[Division, dict[str, int], set[str]]:
    """How many sequences each source gives, and the sources that max_repeats made smaller.

    Raises TooManyPassesError.
    """
    used = {
        count.source: min(count.num_sequences, mixture.max_sequences.get(count.source, count.num_sequences))
        for count in counts
        if mixture.shares.get(count.source) != 0
    }
    means = {count.source: count.num_tokens / count.num_sequences for count in counts}
    division, num_used = Division(mixture, used, means), sum(used.values())
    total = num_steps(num_used, global_batch=global_batch, num_epochs=num_epochs) * global_batch
    try:
        amounts, limited = division.divide(total)
    except TooManyPassesError:
        # Without what fills up the last batch it may fit. Then every source gives its part of that.
        amounts, limited = division.divide(num_used * num_epochs)
    return division, _round(amounts, total), limited


def _find_remedies(
    refusal: TooManyPassesError,
    mixture: Mixture,
    counts: Sequence[SourceCount],
    num_epochs: float,
    global_batch: int,
) -> list[str]:
    """Keys with values that are accepted: they were tried."""

    def accepts(mixture: Mixture, num_epochs: float) -> bool:
        try:
            _require_sources(mixture, [count.source for count in counts])
            _divide(mixture, counts, num_epochs, global_batch)
        except ValueError:
            return False
        return True

    remedies, source = [], refusal.source
    if epochs := _find_most(lambda value: accepts(mixture, value), num_epochs):
        remedies.append(f"set finetune.num_epochs to {epochs} or less")
    if source is not None:

        def accepts_share(share: float) -> bool:
            return accepts(replace(mixture, shares={**mixture.shares, source: share}), num_epochs)

        if share := _find_most(accepts_share, mixture.shares[source]):
            remedies.append(f"set finetune.mixture.shares={{{_quote(source)}: {share}}}")
    return [*remedies, "or raise max_repeats" if remedies else "raise max_repeats"]


def _find_most(accepts: Callable[[float], bool], refused: float) -> str:
    """About the highest value below `refused` that is accepted, with three digits; empty = none was found."""
    accepted = 0.0
    for _ in range(30):
        middle = (accepted + refused) / 2
        accepted, refused = (middle, refused) if accepts(middle) else (accepted, middle)
    for value in (refused, accepted, accepted * 0.995):
        text = f"{value:.3g}"
        if float(text) > 0 and accepts(float(text)):
            return text
    return ""


def _quote(name: str) -> str:
    """As a key of YAML."""
    return name if re.fullmatch(r"[A-Za-z_][\w.-]*", name) else json.dumps(name, ensure_ascii=False)


def _require_sources(mixture: Mixture, existing: Sequence[str]) -> None:
    if not existing:
        raise ValueError(
            "the train split has no sequences to mix; look at drop_reason and split in the documents table"
        )
    unknown = sorted(mixture.list_sources() - set(existing))
    if unknown:
        raise ValueError(
            f"finetune.mixture names source {unknown[0]}, and the train split has only "
            f"{', '.join(existing)}; take one of these"
        )
    without = sorted(set(existing) - mixture.shares.keys())
    total = sum(mixture.shares.values())
    if without and total > 1 - SUM_TOLERANCE:
        raise ValueError(
            f"finetune.mixture.shares add up to 1, and source {without[0]} has no share; give it one, or "
            "0 to leave it out"
        )
    if not without and total < 1 - SUM_TOLERANCE:
        raise ValueError(
            f"finetune.mixture.shares name every source, so they must add up to 1, got {total:g}"
        )


def _round(amounts: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole numbers that add up to `total`, each less than 1 away: largest remainders, ties by name."""
    scale = total / sum(amounts.values())  # 1 but for the rounding of floats
    exact = {source: amount * scale for source, amount in sorted(amounts.items())}
    whole = {source: int(amount + 1e-9) for source, amount in exact.items()}
    by_remainder = sorted(exact, key=lambda source: whole[source] - exact[source])
    for source in by_remainder[: total - sum(whole.values())]:
        whole[source] += 1
    return whole


def _describe(plan: SourcePlan) -> str:
    if not plan.num_used:
        return f"left out; {plan.num_sequences:,} sequences"
    used = "" if plan.num_used == plan.num_sequences else f" used of {plan.num_sequences:,}"
    limited = ", limited by max_repeats" if plan.is_limited else ""
    return (
        f"{plan.share:.2%} of the tokens; {plan.num_planned:,} sequences, {plan.repeats:.2f} passes over "
        f"{plan.num_used:,}{used}{limited}"
    )

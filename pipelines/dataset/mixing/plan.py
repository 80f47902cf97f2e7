"""From the shares that are asked for to sequences of each source: the plan of a training, before it starts.

Shares are of tokens, and a step takes sequences. So a source gets sequences in proportion to its share
divided by its mean number of tokens. A training has as many steps as without a mixture: num_epochs passes
over the sequences that are used; the shares say which sequences fill them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
    used = {
        count.source: min(count.num_sequences, mixture.max_sequences.get(count.source, count.num_sequences))
        for count in counts
        if mixture.shares.get(count.source) != 0
    }
    means = {count.source: count.num_tokens / count.num_sequences for count in counts}
    num_used = sum(used.values())
    total = num_steps(num_used, global_batch=global_batch, num_epochs=num_epochs) * global_batch
    amounts, limited = _Division(mixture, used, means, num_epochs).divide(total)
    planned = _round(amounts, total)
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


@dataclass(frozen=True, slots=True)
class _Division:
    """How many sequences each source gives, as real numbers."""

    mixture: Mixture
    used: Mapping[str, int]
    """Source -> sequences that are used, without sources that are left out."""
    means: Mapping[str, float]
    """Source -> tokens per sequence."""
    num_epochs: float

    def divide(self, total: int) -> tuple[dict[str, float], set[str]]:
        """Sequences of each source, `total` in all, and the sources that max_repeats made smaller."""
        named = {source: share for source, share in self.mixture.shares.items() if share}
        limits = {source: self.mixture.find_limit(source) * number for source, number in self.used.items()}
        limited: set[str] = set()
        while True:
            free = [source for source in self.used if source not in named and source not in limited]
            if limited and not free:
                raise ValueError(self._refuse_total(total, sum(named.values()), limits, limited))
            fixed = {source: limits[source] for source in limited}
            amounts = self._solve(total, named, free, fixed)
            over = {source for source in free if amounts[source] > limits[source] * (1 + 1e-12)}
            if not over:
                break
            limited |= over
        for source in named:
            if amounts[source] > limits[source] * (1 + 1e-9):
                raise ValueError(self._refuse_share(source, amounts[source], total))
        return amounts, limited

    def _solve(
        self, total: int, named: Mapping[str, float], free: Sequence[str], fixed: Mapping[str, float]
    ) -> dict[str, float]:
        """Sequences of each source, if `fixed` sources give these numbers. Linear in the number of tokens."""
        weights = {
            source: (self.used[source] * self.means[source]) ** (1 / self.mixture.temperature)
            for source in free
        }
        per_token = sum(weights[source] / self.means[source] for source in free) / max(
            sum(weights.values()), 1e-300
        )  # sequences per token of the free sources
        left = max(0.0, 1 - sum(named.values())) if free else 0.0
        fixed_tokens = sum(number * self.means[source] for source, number in fixed.items())
        per_token_of_all = sum(share / self.means[source] for source, share in named.items())
        per_token_of_all += left * per_token
        tokens = (total - sum(fixed.values()) + fixed_tokens * per_token) / per_token_of_all
        amounts = {source: share * tokens / self.means[source] for source, share in named.items()}
        rest = (left * tokens - fixed_tokens) / max(sum(weights.values()), 1e-300)
        amounts |= {source: weights[source] * rest / self.means[source] for source in free}
        return amounts | dict(fixed)

    def _refuse_share(self, source: str, amount: float, total: int) -> str:
        limit, passes = self.mixture.find_limit(source), amount / self.used[source]
        share, fits = self.mixture.shares[source], limit / passes
        return (
            f"finetune.mixture: a share of {share:g} of {total:,} sequences takes {passes:.3g} passes over "
            f"the {self.used[source]:,} sequences of source {source}, and max_repeats is {limit:g}; set "
            f"finetune.num_epochs to about {_cut(self.num_epochs * fits)} or less, "
            f"finetune.mixture.shares.{source} to about {_cut(share * fits)} or less, or raise max_repeats"
        )

    def _refuse_total(self, total: int, named: float, limits: Mapping[str, float], limited: set[str]) -> str:
        tokens = sum(limits[source] * self.means[source] for source in limited) / max(1 - named, 1e-300)
        most = sum(limits[source] for source in limited) + sum(
            share * tokens / self.means[source] for source, share in self.mixture.shares.items()
        )
        return (
            f"finetune.mixture: {total:,} sequences are asked for, and with max_repeats the sources "
            f"{', '.join(sorted(limited))} give only {most:,.0f} with what goes with them; set "
            f"finetune.num_epochs to {_cut(self.num_epochs * most / total)} or less, or raise max_repeats"
        )


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


def _cut(value: float) -> str:
    """Three digits, never more than the value."""
    near = float(f"{value:.3g}")
    return f"{near if near <= value else near * 0.995:.3g}"


def _describe(plan: SourcePlan) -> str:
    if not plan.num_used:
        return f"left out; {plan.num_sequences:,} sequences"
    used = "" if plan.num_used == plan.num_sequences else f" used of {plan.num_sequences:,}"
    limited = ", limited by max_repeats" if plan.is_limited else ""
    return (
        f"{plan.share:.2%} of the tokens; {plan.num_planned:,} sequences, {plan.repeats:.2f} passes over "
        f"{plan.num_used:,}{used}{limited}"
    )

"""How many sequences each source of a mixture gives, as real numbers: shares, temperature, limits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.dataset.mixing.rules import Mixture


class TooManyPassesError(ValueError):
    """max_repeats does not allow what is asked for."""

    def __init__(self, problem: str, source: str | None = None) -> None:
        """`source`: the one whose share needs too many passes; None = the sources without a share."""
        super().__init__(problem)
        self.source = source


@dataclass(frozen=True, slots=True)
class Division:
    """The sources of a mixture with their sizes."""

    mixture: Mixture
    used: Mapping[str, int]
    """Source -> sequences that are used, without sources that are left out."""
    means: Mapping[str, float]
    """Source -> tokens per sequence."""

    def divide(self, total: float) -> tuple[dict[str, float], set[str]]:
        """Sequences of each source, `total` in all, and the sources that max_repeats made smaller.

        Raises TooManyPassesError.
        """
        named = {source: share for source, share in self.mixture.shares.items() if share}
        limits = {source: self.mixture.find_limit(source) * number for source, number in self.used.items()}
        limited: set[str] = set()
        while True:
            free = [source for source in self.used if source not in named and source not in limited]
            if limited and not free:
                raise TooManyPassesError(self._refuse_total(total, sum(named.values()), limits, limited))
            fixed = {source: limits[source] for source in limited}
            amounts = self._solve(total, named, free, fixed)
            over = {source for source in free if amounts[source] > limits[source] * (1 + 1e-12)}
            if not over:
                break
            limited |= over
        for source in named:
            if amounts[source] > limits[source] * (1 + 1e-9):
                raise TooManyPassesError(self._refuse_share(source, amounts[source], total), source)
        return amounts, limited

    def _solve(
        self, total: float, named: Mapping[str, float], free: Sequence[str], fixed: Mapping[str, float]
    ) -> dict[str, float]:
        """Sequences of each source, if `fixed` sources give these numbers. Linear in the number of tokens."""
        weights = self._weigh(free)
        # Sequences per token of the free sources.
        per_token = sum(weight / self.means[source] for source, weight in weights.items())
        left = max(0.0, 1 - sum(named.values())) if free else 0.0
        fixed_tokens = sum(number * self.means[source] for source, number in fixed.items())
        per_token_of_all = sum(share / self.means[source] for source, share in named.items())
        per_token_of_all += left * per_token
        tokens = (total - sum(fixed.values()) + fixed_tokens * per_token) / per_token_of_all
        amounts = {source: share * tokens / self.means[source] for source, share in named.items()}
        rest = left * tokens - fixed_tokens
        amounts |= {source: weight * rest / self.means[source] for source, weight in weights.items()}
        return amounts | dict(fixed)

    def _weigh(self, free: Sequence[str]) -> dict[str, float]:
        """Share of each free source in what they divide: in proportion to tokens^(1 / temperature)."""
        sizes = {source: self.used[source] * self.means[source] for source in free}
        largest = max(sizes.values(), default=1.0)
        # Powers of numbers up to 1: a low temperature makes some of them 0, and none infinite.
        powers = {
            source: (size / largest) ** (1 / self.mixture.temperature) for source, size in sizes.items()
        }
        total = sum(powers.values())
        return {source: power / total for source, power in powers.items()}

    def _refuse_share(self, source: str, amount: float, total: float) -> str:
        limit, passes = self.mixture.find_limit(source), amount / self.used[source]
        return (
            f"a share of {self.mixture.shares[source]:g} of {total:,.0f} sequences takes {passes:.3g} passes "
            f"over the {self.used[source]:,} sequences of source {source}, and max_repeats is {limit:g}"
        )

    def _refuse_total(
        self, total: float, named: float, limits: Mapping[str, float], limited: set[str]
    ) -> str:
        tokens = sum(limits[source] * self.means[source] for source in limited) / max(1 - named, 1e-300)
        most = sum(limits[source] for source in limited) + sum(
            share * tokens / self.means[source] for source, share in self.mixture.shares.items()
        )
        return (
            f"{total:,.0f} sequences are asked for, and with max_repeats the sources "
            f"{', '.join(sorted(limited))} give only {most:,.0f} with what goes with them"
        )

"""Candidates of a search, their scores, and which one is the best. Standard library only."""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from pipelines.finetune.search.rules import Settings
from pipelines.metrics import METRICS


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """Settings to try, for a share of the epochs."""

    number: int
    """From 0; the same in all rounds."""
    settings: Settings
    rung: int = 0
    """Of halving, from 0."""
    epochs_fraction: float = 1.0
    """Of num_epochs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """What came of a candidate."""

    candidate: Candidate
    metric: str = ""
    """Empty if it failed."""
    values: tuple[float, ...] = ()
    """One per fold, or a single one; empty if it failed."""
    error: str | None = None
    is_lost: bool = False
    """It failed because Spark lost its process, and may go well another time."""

    @property
    def value(self) -> float:
        """Mean over the folds; not a number if the candidate failed."""
        return math.nan if self.error or not self.values else math.fsum(self.values) / len(self.values)

    @property
    def cost(self) -> float:
        """The value, or its negative if higher is better: a smaller cost is better."""
        is_higher = bool(self.metric) and METRICS[self.metric].higher_is_better
        return -self.value if is_higher else self.value

    @property
    def spread(self) -> float:
        """Standard deviation over the folds, with n - 1; 0 for a single value."""
        if len(self.values) < 2:
            return 0.0
        mean = self.value
        return math.sqrt(math.fsum((each - mean) ** 2 for each in self.values) / (len(self.values) - 1))


Rounds = Generator[list[Candidate], list[Score], None]


def rank(scores: Sequence[Score]) -> list[Score]:
    """The scores with a value, best first; of equal ones, the candidate with the smaller number first."""
    valid = [score for score in scores if math.isfinite(score.cost)]
    return sorted(valid, key=lambda score: (score.cost, score.candidate.number))


def choose_best(scores: Sequence[Score]) -> Score:
    """The best of the last round that has a value. Raises ValueError if every candidate failed."""
    for rung in sorted({score.candidate.rung for score in scores}, reverse=True):
        ranked = rank([score for score in scores if score.candidate.rung == rung])
        if ranked:
            return ranked[0]
    first = next((score.error for score in scores if score.error), "no finite value")
    raise ValueError(
        f"all {len(scores)} trials failed; the first one: {first}; correct finetune or "
        "finetune.search.space, and run the search with --retry-failed"
    )

"""What a person says about the order of training: shares of the sources, and what comes first. Standard
library only, because the configuration is checked with it.
"""

from dataclasses import dataclass, field
from typing import Literal

CurriculumColumn = Literal["num_tokens", "num_targets", "num_bytes"]
SUM_TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixture:
    """How many of a training's tokens come from each source.

    Sources without a share divide what the others leave, in proportion to tokens^(1 / temperature) (Devlin
    2018). One that would exceed max_repeats gets no more, and the rest goes to the other sources without a
    share (UniMax, Chung et al. 2023).
    """

    shares: dict[str, float] = field(default_factory=dict)
    """Source -> share of all tokens; 0 = the source is left out."""
    temperature: float = 1.0
    """Of sources without a share. 1 = by size; higher = more alike."""
    max_repeats: float | dict[str, float] | None = None
    """Most passes over a source: one number for all, or source -> number; None = no limit."""
    max_sequences: dict[str, int] = field(default_factory=dict)
    """Source -> sequences that are used, chosen at random; the others are never read."""

    def __post_init__(self) -> None:
        for source, share in self.shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"shares.{source} must be in [0, 1], got {share}")
        if sum(self.shares.values()) > 1 + SUM_TOLERANCE:
            raise ValueError(f"shares must add up to at most 1, got {sum(self.shares.values()):g}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be greater than 0, got {self.temperature}")
        limits = self.max_repeats if isinstance(self.max_repeats, dict) else {"": self.max_repeats}
        for source, repeats in limits.items():
            if repeats is not None and not repeats > 0:
                raise ValueError(f"max_repeats{source and '.'}{source} must be greater than 0, got {repeats}")
        for source, limit in self.max_sequences.items():
            if limit < 1:
                raise ValueError(
                    f"max_sequences.{source} must be at least 1, got {limit}; to leave a source out, set its "
                    "share to 0"
                )

    @property
    def is_set(self) -> bool:
        """Whether it asks for anything; else every sequence is seen num_epochs times."""
        return self != Mixture()

    def find_limit(self, source: str) -> float:
        """Most passes over `source`."""
        limits = self.max_repeats
        found = limits.get(source) if isinstance(limits, dict) else limits
        return float("inf") if found is None else found

    def list_sources(self) -> set[str]:
        """Every source that it names."""
        limits = self.max_repeats if isinstance(self.max_repeats, dict) else {}
        return {*self.shares, *limits, *self.max_sequences}


@dataclass(frozen=True, kw_only=True, slots=True)
class Curriculum:
    """Easy sequences first, within the first pass over each source (Bengio et al. 2009).

    At progress x of the curriculum (0 to 1), the easiest share c(x) of its sequences may come, with
    c(x) = (c0^power + (1 - c0^power) * x)^(1 / power), the competence of Platanios et al. (2019).
    """

    column: CurriculumColumn | None = None
    """Column of the sequences that says how hard one is; None = no curriculum."""
    descending: bool = False
    """Whether sequences with high values come first."""
    steps_fraction: float = 1.0
    """Share of the steps of the training in which the curriculum applies; then the order is random."""
    start_fraction: float = 0.1
    """c0: share of the sequences that may come at the start; 1 = all, which is a random order."""
    power: float = 1.0
    """1 = hard sequences come in at a constant rate; 2 = more of them at first."""

    def __post_init__(self) -> None:
        for name in ("steps_fraction", "start_fraction"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {getattr(self, name)}")
        if not self.power >= 1:
            raise ValueError(f"power must be at least 1, got {self.power}")

    def find_competence(self, progress: float) -> float:
        """c(x): share of the sequences, the easiest ones, that may come at `progress`."""
        start = self.start_fraction**self.power
        return float((start + (1 - start) * progress) ** (1 / self.power))

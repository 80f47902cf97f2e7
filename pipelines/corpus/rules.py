"""Limits of a document that is kept. `quality.py` makes labels of them; this module imports no Spark."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.corpus.presets import Limit, choose_limits
from pipelines.corpus.source import SPLITS

_OPTIONAL = ("presets", "thresholds")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What a document must be to be kept."""

    min_chars: int = 1
    """Code points of the shortest text that is kept; an empty text is dropped even with 0."""
    drop_duplicates_from: tuple[str, ...] = ("train", "validation")
    """Splits that lose their exact copies. Without test, a published test set stays complete."""
    presets: tuple[str, ...] = ()
    """Published rules by name, see `presets.py`; the first that a document fails is its reason."""
    thresholds: dict[str, float | None] = field(default_factory=dict)
    """Rule of a preset, PRESET/min_SIGNAL or PRESET/max_SIGNAL -> another limit; None = the rule is off."""

    def __post_init__(self) -> None:
        if self.min_chars < 0:
            raise ValueError(f"min_chars must be at least 0 code points, got {self.min_chars}")
        if unknown := sorted(set(self.drop_duplicates_from) - set(SPLITS)):
            raise ValueError(
                f"drop_duplicates_from must be among {', '.join(SPLITS)}, got {', '.join(unknown)}"
            )
        for rule, threshold in self.thresholds.items():
            if threshold is not None and not math.isfinite(threshold):
                raise ValueError(f"thresholds.{rule} must be a finite number or null, got {threshold}")
        choose_limits(self.presets, self.thresholds)

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The rules of the presets with their limits, in order."""
        return choose_limits(self.presets, self.thresholds)

    @property
    def signals(self) -> tuple[str, ...]:
        """Signals that the presets look at, those of rules that are switched off too."""
        return tuple(dict.fromkeys(limit.signal for limit in choose_limits(self.presets, {})))

    def change(self, thresholds: dict[str, float | None]) -> "Rules":
        """These rules with other thresholds for some."""
        return replace(self, thresholds={**self.thresholds, **thresholds})


def leave_out_unset(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a corpus for its fingerprint: presets and thresholds only if some are set, so that corpora
    made before there were presets stay up to date. `settings["rules"]` are `Rules` as plain values."""
    rules = {name: value for name, value in settings["rules"].items() if value or name not in _OPTIONAL}
    return {**settings, "rules": rules}

"""Limits of a document that is kept. `quality.py` makes labels of them; this module imports no Spark."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.corpus.presets import Limit, choose_limits
from pipelines.corpus.source import SPLITS

_OPTIONAL = ("languages", "presets", "thresholds")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What a document must be to be kept."""

    min_chars: int = 1
    """Code points of the shortest text that is kept; an empty text is dropped even with 0."""
    drop_duplicates_from: tuple[str, ...] = ("train", "validation")
    """Splits that lose their exact copies. Without test, a published test set stays complete."""
    languages: tuple[str, ...] = ()
    """Languages that are kept, such as en or zh-Hans; zh keeps both scripts. Empty = all are kept."""
    min_language_score: float = 0.65
    """Probability of the language below which a document is dropped; FineWeb's is 0.65."""
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
        if wrong := [name for name in self.languages if not re.fullmatch(r"[a-z]{2,3}(-Han[st])?", name)]:
            raise ValueError(f"languages are ISO 639 codes, such as en or zh-Hans; got {', '.join(wrong)}")
        if not 0 <= self.min_language_score <= 1:
            raise ValueError(f"min_language_score must be between 0 and 1, got {self.min_language_score}")

    @property
    def are_measured(self) -> bool:
        """Whether a rule looks at a signal or at the language, so that table `signals` is written."""
        return bool(self.presets or self.languages)

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
    """Settings of a corpus for its fingerprint, without presets, thresholds and cleaning where none is set,
    so that corpora made before there were such keys stay up to date. `settings` has `rules` and `sources`
    as plain values."""
    rules = {name: value for name, value in settings["rules"].items() if value or name not in _OPTIONAL}
    if "languages" not in rules:
        rules.pop("min_language_score", None)
    sources = [
        {name: value for name, value in source.items() if name != "cleaning" or any(value.values())}
        for source in settings["sources"]
    ]
    return {**settings, "rules": rules, "sources": sources}

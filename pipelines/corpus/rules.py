"""Limits of a document that is kept. `quality.py` makes labels of them; this module imports no Spark."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.corpus.presets import Limit, choose_limits
from pipelines.corpus.source import SPLITS
from pipelines.corpus.word_list import PREFIX, WordList, check_languages, check_thresholds, choose_word_limits

_OPTIONAL = ("languages", "presets", "thresholds", "word_lists")
_OWN_LIMITS = ("min_chars", "min_language_score")
"""Limits that are no thresholds: they belong to no preset and no word list."""


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
    word_lists: tuple[WordList, ...] = ()
    """Words that are counted, and how many a kept document may have. Their limits come after the presets."""

    def __post_init__(self) -> None:
        if self.min_chars < 0:
            raise ValueError(f"min_chars must be at least 0 code points, got {self.min_chars}")
        if unknown := sorted(set(self.drop_duplicates_from) - set(SPLITS)):
            raise ValueError(
                f"drop_duplicates_from must be among {', '.join(SPLITS)}, got {', '.join(unknown)}"
            )
        check_thresholds(self.thresholds)
        self._choose_limits()
        check_languages("languages", self.languages)
        if not 0 <= self.min_language_score <= 1:
            raise ValueError(f"min_language_score must be between 0 and 1, got {self.min_language_score}")

    @property
    def are_measured(self) -> bool:
        """Whether a rule looks at a published signal or the language, so that table `signals` is written."""
        return bool(self.presets or self.languages)

    @property
    def need_languages(self) -> bool:
        """Whether the language of each text is looked for."""
        return bool(self.languages) or any(each.languages for each in self.word_lists)

    @property
    def read_texts(self) -> bool:
        """Whether a rule looks at more than the size of a text."""
        return self.are_measured or bool(self.word_lists)

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The rules of the presets, then of the word lists, with their limits, in order."""
        return self._choose_limits()

    @property
    def preset_signals(self) -> tuple[str, ...]:
        """Signals that the presets look at, those of rules that are switched off too."""
        return tuple(dict.fromkeys(limit.signal for limit in choose_limits(self.presets, {})))

    @property
    def signals(self) -> tuple[str, ...]:
        """Signals of the presets, then two of each word list."""
        return (*self.preset_signals, *(name for each in self.word_lists for name in each.signals))

    def _choose_limits(self) -> tuple[Limit, ...]:
        changed: tuple[dict[str, float | None], dict[str, float | None]] = ({}, {})
        for rule, threshold in self.thresholds.items():
            changed[rule.startswith(PREFIX)][rule] = threshold
        of_presets, of_words = changed
        return (*choose_limits(self.presets, of_presets), *choose_word_limits(self.word_lists, of_words))

    def change(self, limits: Mapping[str, float | None]) -> "Rules":
        """These rules with other limits: thresholds by rule (None switches it off), min_chars and
        min_language_score by name.

        Raises ValueError for a rule that does not exist, and for a number that is no such limit.
        """
        thresholds, own = dict(self.thresholds), dict[str, Any]()
        for name, value in limits.items():
            if name not in _OWN_LIMITS:
                thresholds[name] = value
            elif value is None:
                raise ValueError(f"{name} must be a number, got null; 0 switches it off")
            elif name == "min_chars" and value % 1:
                raise ValueError(f"min_chars must be a whole number of code points, got {value}")
            else:
                own[name] = int(value) if name == "min_chars" else value
        return replace(self, thresholds=thresholds, **own)


def leave_out_unset(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a corpus for its fingerprint, without presets, thresholds, word lists, cleaning and a
    separator of labels where none is set, so that corpora made before there were such keys stay up to date;
    and without the places of word lists, whose content counts. `settings` has `rules` and `sources` as plain
    values."""
    rules = {name: value for name, value in settings["rules"].items() if value or name not in _OPTIONAL}
    if "word_lists" in rules:
        rules["word_lists"] = [{**each, "path": None} for each in rules["word_lists"]]
    if "languages" not in rules:
        rules.pop("min_language_score", None)
    sources = [
        {name: value for name, value in source.items() if name != "cleaning" or any(value.values())}
        for source in settings["sources"]
    ]
    for source in sources:
        if not source.get("messages"):
            source.pop("ignored_turn_fields", None)
        if source.get("label_separator") is None:
            source.pop("label_separator", None)
        if source["format"] in ("kafka", "delta_changes"):  # to land or not changes no document that is there
            source["options"] = {name: value for name, value in source["options"].items() if name != "land"}
    return {**settings, "rules": rules, "sources": sources}

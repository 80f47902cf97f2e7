"""A list of words that a kept document may not have, or not often: its file and its limits.

Imports neither NumPy nor Spark, so that a configuration is checked in milliseconds. `matching/words.py` reads
the file and counts.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.corpus.presets import Limit

PREFIX = "word_list/"
"""Rules and signals of word lists are named word_list/LIST/...; no preset is named so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WordList:
    """One file of words, and how many of them a kept document may have. Without a limit they are counted."""

    name: str
    """Letters, digits, '_', '-' and '.'; part of the drop_reason."""
    path: str
    """Local path or URI of a text file: UTF-8, a word or phrase per line, lines that start with # are not
    read."""
    languages: tuple[str, ...] = ()
    """Languages of the documents in which the words are looked for, such as en or zh; empty = all."""
    max_matches: int | None = None
    """Matches that a kept document may have; None = no limit."""
    max_fraction: float | None = None
    """Share of the words of a kept document that may be in matches, in [0, 1]; None = no limit."""

    def __post_init__(self) -> None:
        at = f"word list {self.name!r}"
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", self.name):
            raise ValueError(f"{at}: a name consists of letters, digits, '_', '-', '.'")
        if not self.path:
            raise ValueError(f"{at}: path is empty; give a text file with a word per line")
        if self.max_matches is not None and self.max_matches < 0:
            raise ValueError(f"{at}: max_matches must be at least 0, got {self.max_matches}")
        if self.max_fraction is not None and not 0 <= self.max_fraction <= 1:
            raise ValueError(f"{at}: max_fraction must be from 0 to 1, got {self.max_fraction}")
        check_languages(f"{at}: languages", self.languages)

    @property
    def signals(self) -> tuple[str, str]:
        """Names of what is measured: the number of matches, and the share of the words that are in them."""
        return f"{PREFIX}{self.name}/matches", f"{PREFIX}{self.name}/fraction"

    @property
    def thresholds(self) -> dict[str, float | None]:
        """Limits by name of the rule; None = no limit."""
        return {
            f"{PREFIX}{self.name}/max_matches": self.max_matches,
            f"{PREFIX}{self.name}/max_fraction": self.max_fraction,
        }


def choose_word_limits(
    word_lists: Sequence[WordList], thresholds: Mapping[str, float | None]
) -> tuple[Limit, ...]:
    """The limits of the lists in order, with the thresholds changed by name; None switches a rule off.

    Raises ValueError for two lists of one name, and for a rule that no list has.
    """
    names = [each.name.lower() for each in word_lists]  # columns of Spark ignore case
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"names of word_lists must be unique, repeated: {', '.join(repeated)}")
    known = {rule: value for each in word_lists for rule, value in each.thresholds.items()}
    if unknown := sorted(set(thresholds) - set(known)):
        raise ValueError(
            f"thresholds must name a rule of the word lists, such as {PREFIX}NAME/max_matches; "
            f"there is no {', '.join(unknown)}"
        )
    limits = []
    for rule, threshold in {**known, **thresholds}.items():
        if threshold is not None:
            of_list, _, limit = rule.rpartition("/")
            signal = f"{of_list}/{limit.removeprefix('max_')}"
            limits.append(Limit(rule, signal, False, float(threshold)))
    return tuple(limits)


def check_languages(name: str, languages: Sequence[str]) -> None:
    """Raises ValueError for what is no language code, such as en or zh-Hans."""
    if wrong := [each for each in languages if not re.fullmatch(r"[a-z]{2,3}(-Han[st])?", each)]:
        raise ValueError(f"{name} are ISO 639 codes, such as en or zh-Hans; got {', '.join(wrong)}")


def is_among(language: str | None, languages: Sequence[str]) -> bool:
    """Whether a language is asked for: zh stands for zh-Hans and zh-Hant, too; none asked for = all are."""
    if not languages:
        return True
    return language is not None and (language in languages or language.partition("-")[0] in languages)


def check_thresholds(thresholds: Mapping[str, float | None]) -> None:
    """Raises ValueError for a threshold that is no finite number."""
    for rule, threshold in thresholds.items():
        if threshold is not None and not math.isfinite(threshold):
            raise ValueError(f"thresholds.{rule} must be a finite number or null, got {threshold}")

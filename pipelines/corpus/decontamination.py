"""What counts as contamination: the evaluation sets, the n-gram and the limits.

Imports neither NumPy nor Spark, so that a configuration is checked in milliseconds. `matching/evaluation.py`
reads the sets, `matching/contamination.py` finds them in documents.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.corpus.source import Source, check_names

CONTAMINATED = "contaminated"
"""The drop_reason."""
DROP_FROM = ("train", "validation")
ON_HIT = ("drop", "report")
_MAX_NGRAM = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Decontamination:
    """Texts on which models are evaluated, and what a document may have of them.

    A hit is an n-gram of words that the document and a record of an evaluation set have in common. Case,
    punctuation and the width of characters do not count. A Chinese character counts as 3/5 of a word, so
    that 13 words are 22 characters.

    A record that is shorter than an n-gram is found only as a whole: all its words, in order, in a row. A
    record of fewer than min_record_words is not compared, because such texts occur by chance ("What is
    it?"); the facts say how many there are.
    """

    evaluation_sets: tuple[Source, ...] = ()
    """Read as sources are; only their texts and keys are used. None = nothing is looked for."""
    ngram: int = 13
    """Words. GPT-3 (Brown et al. 2020, arXiv 2005.14165, appendix C) takes 8 to 13."""
    min_record_words: int = 8
    """Words of the shortest record that is compared; GPT-3's lower bound of n."""
    max_ngrams: int = 0
    """Hits that a kept document may have."""
    max_fraction: float = 0.0
    """Share of its n-grams that may be hits in a kept document. What is dropped exceeds both limits."""
    drop_from: tuple[str, ...] = DROP_FROM
    """Splits in which hits are looked for. Never test: a test set may be one of the evaluation sets."""
    on_hit: Literal["drop", "report"] = "drop"
    """report: the table of hits is written, and the documents stay."""

    def __post_init__(self) -> None:
        check_names(self.evaluation_sets)
        if edited := [each.name for each in self.evaluation_sets if each.cleaning.c4_lines]:
            raise ValueError(
                f"evaluation_sets: cleaning.c4_lines removes short questions from {', '.join(edited)}, and "
                "what is removed is not looked for; remove c4_lines"
            )
        if not 2 <= self.ngram <= _MAX_NGRAM:
            raise ValueError(f"ngram must be from 2 to {_MAX_NGRAM:,} words, got {self.ngram}")
        if not 1 <= self.min_record_words <= self.ngram:
            raise ValueError(
                f"min_record_words must be from 1 to ngram = {self.ngram} words, got {self.min_record_words}"
            )
        if self.max_ngrams < 0:
            raise ValueError(f"max_ngrams must be at least 0, got {self.max_ngrams}")
        if not 0 <= self.max_fraction <= 1:
            raise ValueError(f"max_fraction must be from 0 to 1, got {self.max_fraction}")
        if not self.drop_from or set(self.drop_from) - set(DROP_FROM):
            raise ValueError(
                f"drop_from must be one or both of {', '.join(DROP_FROM)}, got {', '.join(self.drop_from)}; "
                "a test set is never decontaminated"
            )
        if self.on_hit not in ON_HIT:
            raise ValueError(f"on_hit must be one of {', '.join(ON_HIT)}, got {self.on_hit}")

    @property
    def enabled(self) -> bool:
        return bool(self.evaluation_sets)

    @property
    def limits(self) -> dict[str, Any]:
        """Everything but the sets, as plain values: for the facts of the documents."""
        names = ("ngram", "min_record_words", "max_ngrams", "max_fraction", "on_hit")
        return {**{name: getattr(self, name) for name in names}, "drop_from": list(self.drop_from)}

    @property
    def drops(self) -> bool:
        """Whether documents may be dropped for a hit."""
        return self.enabled and self.on_hit == "drop"


def name_inputs(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the documents depend on, for their fingerprint: nothing without evaluation sets. `settings` has
    plain values; what the files of the sets hold is in the digest of the manifest."""
    return {"decontamination": dict(settings)} if settings["evaluation_sets"] else {}

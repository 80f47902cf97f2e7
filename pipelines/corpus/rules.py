"""Limits of a document that is kept. `quality.py` makes labels of them; this module imports no Spark."""

from dataclasses import dataclass

from pipelines.corpus.source import SPLITS


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What a document must be to be kept."""

    min_chars: int = 1
    """Code points of the shortest text that is kept; an empty text is dropped even with 0."""
    drop_duplicates_from: tuple[str, ...] = ("train", "validation")
    """Splits that lose their exact copies. Without test, a published test set stays complete."""

    def __post_init__(self) -> None:
        if self.min_chars < 0:
            raise ValueError(f"min_chars must be at least 0 code points, got {self.min_chars}")
        if unknown := sorted(set(self.drop_duplicates_from) - set(SPLITS)):
            raise ValueError(
                f"drop_duplicates_from must be among {', '.join(SPLITS)}, got {', '.join(unknown)}"
            )

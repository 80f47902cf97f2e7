"""Which repeated paragraphs are removed. Imports nothing heavy: a configuration is checked quickly."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

DROP_FROM = ("train", "validation")
UNITS = ("line", "paragraph")
SURVIVORS = ("first", "none")
_MAX_DOCUMENTS = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Paragraphs:
    """What a paragraph is, from how many documents on it is a copy, and which copy stays.

    Documents with equal texts count as one: whole copies are what exact deduplication is for. A paragraph
    that occurs several times in one document alone is no copy. Documents with parts (dialogues) are not
    compared: a short turn is no boilerplate.
    """

    enabled: bool = False
    """False = texts stay as they are, and no file is read for it."""
    unit: Literal["line", "paragraph"] = "line"
    """line: what a line break ends; Dolma calls this a paragraph, and it is the unit of Chinese web
    text. paragraph: a run of lines without a blank one."""
    min_bytes: int = 32
    """UTF-8 bytes of the shortest paragraph that is compared: 32 letters or 11 ideographs. Shorter ones (menu
    entries, headings, names) always stay, and cost no row."""
    max_documents: int = 1
    """Different texts that may have a paragraph; if more have it, it is a copy."""
    survivor: Literal["first", "none"] = "first"
    """Which text keeps a copied paragraph: the first (by split, source, file and offset), as in Dolma, or
    none of them: boilerplate goes everywhere."""
    drop_from: tuple[str, ...] = DROP_FROM
    """Splits whose documents lose paragraphs. Never test: a test set stays whole, and goes before the others,
    so that train loses what test has."""

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"unit must be one of {', '.join(UNITS)}, got {self.unit}")
        if self.min_bytes < 1:
            raise ValueError(f"min_bytes must be at least 1, got {self.min_bytes}")
        if not 1 <= self.max_documents <= _MAX_DOCUMENTS:
            raise ValueError(
                f"max_documents must be from 1 to {_MAX_DOCUMENTS:,}, as a task keeps that many ids of "
                f"a frequent paragraph; got {self.max_documents}"
            )
        if self.survivor not in SURVIVORS:
            raise ValueError(f"survivor must be one of {', '.join(SURVIVORS)}, got {self.survivor}")
        if not self.drop_from or set(self.drop_from) - set(DROP_FROM):
            raise ValueError(
                f"drop_from must be one or both of {', '.join(DROP_FROM)}, got {', '.join(self.drop_from)}; "
                "a test set stays whole"
            )


def name_inputs(settings: Paragraphs) -> dict[str, Any]:
    """What the documents depend on, for their fingerprint: nothing if texts stay as they are."""
    return {"paragraphs": asdict(settings)} if settings.enabled else {}

"""What counts as a near duplicate: the parameters of MinHash, the threshold, the scope and the survivor.

Imports neither Spark nor NumPy, so that a configuration is checked in milliseconds.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any, Literal

NEAR_DUPLICATE = "near_duplicate"
"""The drop_reason."""
POLICIES = ("longest", "shortest", "smallest_id")
SCOPES = ("corpus", "source", "file")
DROP_FROM = ("train", "validation")
_SPLITS = ("train", "validation", "test")
_MAX_HASHES = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Banding:
    """Banded MinHash: P(two texts share a band | Jaccard J) = 1 - (1 - J**rows_per_band)**num_bands."""

    ngram: int
    """Words of a shingle; a character of Chinese, Japanese, Thai, Lao, Khmer or Burmese is one word."""
    num_bands: int
    rows_per_band: int

    def __post_init__(self) -> None:
        for name in ("ngram", "num_bands", "rows_per_band"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.num_hashes > _MAX_HASHES:
            raise ValueError(
                f"num_bands * rows_per_band must be at most {_MAX_HASHES:,}, got {self.num_hashes:,}"
            )

    @property
    def num_hashes(self) -> int:
        return self.num_bands * self.rows_per_band

    def find_probability(self, jaccard: float) -> float:
        """How likely it is that a pair with this similarity becomes a candidate."""
        return 1 - (1 - jaccard**self.rows_per_band) ** self.num_bands


PRESETS = {
    # P at J = 0.8: 0.9996. The exact check pays for the candidates below the threshold.
    "sensitive": Banding(ngram=3, num_bands=20, rows_per_band=5),
    # Penedo et al. 2024, arXiv 2406.17557: 0.924 at 0.8
    "fineweb": Banding(ngram=5, num_bands=14, rows_per_band=8),
    # Weber et al. 2024, arXiv 2411.12372: the 128 hashes of RedPajama-V2 for 0.7, 0.8 and 0.9. The word
    # n-gram is not in the paper; 5 is that of FineWeb.
    "redpajama_0.7": Banding(ngram=5, num_bands=14, rows_per_band=9),
    "redpajama_0.8": Banding(ngram=5, num_bands=9, rows_per_band=13),
    "redpajama_0.9": Banding(ngram=5, num_bands=5, rows_per_band=25),
    # Chen et al. 2024, arXiv 2309.02033: Data-Juicer's default for 0.7: 0.942 at 0.8
    "data_juicer": Banding(ngram=5, num_bands=25, rows_per_band=10),
    # Penedo et al. 2023, arXiv 2306.01116: 0.995 at 0.8, for 80 times the hashes of the others
    "refinedweb": Banding(ngram=5, num_bands=450, rows_per_band=20),
}
"""By name, as published. What is found below the threshold is removed by the exact check."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NearDuplicates:
    """Which near duplicates are looked for, and which document of a cluster stays."""

    enabled: bool = False
    preset: str = "sensitive"
    """A name of PRESETS."""
    min_jaccard: float = 0.8
    """Exact Jaccard similarity of the sets of shingles from which two texts are near duplicates."""
    seed: int = 1
    """Of the hash functions. Another seed computes all signatures again."""
    survivor: Literal["longest", "shortest", "smallest_id"] = "longest"
    """Which of two near duplicates stays; a tie goes to the smaller doc_id. A protected source goes before
    everything, then test before validation before train."""
    scope: Literal["corpus", "source", "file"] = "corpus"
    """Texts are compared within the whole corpus, within their source, or within their file (a batch)."""
    protected_sources: tuple[str, ...] = ()
    """Sources that lose no document to a near duplicate."""
    drop_from: tuple[str, ...] = DROP_FROM
    """Splits that lose their near duplicates. Without test, a published test set stays complete."""
    max_source_loss: float = 0.2
    """Share of the documents of one source that may go as exact copies and near duplicates without an alarm.
    Documents that another rule drops are not counted."""
    on_alarm: Literal["fail", "warn"] = "fail"
    """What an alarm does: the stage fails before documents are written, or it logs a warning."""
    max_leaders: int = 32
    """Documents of a bucket with which all others of the bucket are compared: bounds the pairs."""

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {self.preset}")
        if not 0 < self.min_jaccard <= 1:
            raise ValueError(f"min_jaccard must be above 0 and at most 1, got {self.min_jaccard}")
        if not 0 <= self.max_source_loss <= 1:
            raise ValueError(f"max_source_loss must be from 0 to 1, got {self.max_source_loss}")
        if self.survivor not in POLICIES:
            raise ValueError(f"survivor must be one of {', '.join(POLICIES)}, got {self.survivor}")
        if self.scope not in SCOPES:
            raise ValueError(f"scope must be one of {', '.join(SCOPES)}, got {self.scope}")
        if self.max_leaders < 1:
            raise ValueError(f"max_leaders must be at least 1, got {self.max_leaders}")
        if unknown := sorted(set(self.drop_from) - set(_SPLITS)):
            raise ValueError(f"drop_from must be among {', '.join(_SPLITS)}, got {', '.join(unknown)}")

    @property
    def banding(self) -> Banding:
        return PRESETS[self.preset]


def name_inputs(settings: NearDuplicates, drop_copies_from: Collection[str]) -> dict[str, Any]:
    """What the documents depend on, for their fingerprint: nothing if near duplicates are not looked for, and
    no limits that only raise an alarm.

    Raises ValueError if a split would lose a near duplicate and keep exact copies of it.
    """
    if not settings.enabled:
        return {}
    if kept := sorted(set(settings.drop_from) - set(drop_copies_from)):
        raise ValueError(
            f"near_duplicates.drop_from has {', '.join(kept)}, which keeps its exact copies; add it to "
            "corpus.rules.drop_duplicates_from, or remove it here"
        )
    return {"near_duplicates": {**asdict(settings), "max_source_loss": None, "on_alarm": None}}

"""How examples become sequences. Standard library only, because the configuration is checked with it."""

from dataclasses import dataclass

from pipelines.dataset.packing.table import PACKERS

MIB = 1024 * 1024
GROUP_BYTES = 16 * MIB
"""Smaller groups are more tasks, and a new document rebuilds less."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingRules:
    """How examples become sequences."""

    method: str = "one_per_document"
    """A name in PACKERS."""
    sequence_length: int = 128
    """Most tokens in a sequence."""
    group_bytes: int = GROUP_BYTES
    """Bytes of text, and 512 for each document (`layout.DOCUMENT_BYTES`), that are packed together by one
    task into one file of each split, about: from 0.7 to 1.4 times as many, and less for a file from a quarter
    of it. No sequence holds documents of two groups. A task sorts a group in memory, and best_fit also holds
    its tokens: about 5 bytes for each."""

    def __post_init__(self) -> None:
        if self.method not in PACKERS:
            raise ValueError(f"method must be {' or '.join(PACKERS)}, got {self.method!r}")
        if self.sequence_length < 2:
            raise ValueError(f"sequence_length must be at least 2 tokens, got {self.sequence_length}")
        if self.group_bytes < 1:
            raise ValueError(f"group_bytes must be at least 1, got {self.group_bytes}")

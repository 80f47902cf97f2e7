"""What a report of sequences says, as plain values: no Spark, no HTML.

`counting.py` and `samples.py` fill a `Content` from the table, `page.py` makes HTML of it. Equal tables give
equal content, whatever machine counts them: there is no time of day in it but that of the commits.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from pipelines.dataset.examples.table import load_builder
from pipelines.report import TableVersion

FULL = 10
"""Tenths of a sequence without padding; the others are 0 to 9, rounded down."""
RETRIEVAL = "retrieval"
"""The task whose targets are candidates."""
SPLITS = ("train", "validation", "test")
"""In the order in which they are shown."""


@dataclass(frozen=True, slots=True)
class Sequences:
    """A number of sequences, and what they have together."""

    sequences: int = 0
    tokens: int = 0
    targets: int = 0
    """Terms that they add to the loss; of masked language modelling, those that they may add."""
    continued: int = 0
    """Segments whose document begins in another sequence."""

    def __add__(self, other: "Sequences") -> "Sequences":
        return Sequences(
            self.sequences + other.sequences,
            self.tokens + other.tokens,
            self.targets + other.targets,
            self.continued + other.continued,
        )


@dataclass(frozen=True, slots=True)
class Documents:
    """A number of documents, of their tokens in the sequences, and of the segments that hold these."""

    documents: int = 0
    tokens: int = 0
    segments: int = 0
    cut: int = 0
    """Tokens that are in no sequence: they were cut off, because their document did not fit."""

    def __add__(self, other: "Documents") -> "Documents":
        return Documents(
            self.documents + other.documents,
            self.tokens + other.tokens,
            self.segments + other.segments,
            self.cut + other.cut,
        )


class Piece(NamedTuple):
    """Tokens of a sample that make text together: mostly one, of a character that is split several."""

    text: str
    ids: tuple[int, ...]
    is_target: bool = False
    is_special: bool = False
    is_name: bool = False
    """The text is not the document's: it names a token that has none of its own, such as half a character."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleSegment:
    """A document's run of tokens, with the pieces that are shown."""

    doc_id: str
    first_token: int
    num_tokens: int
    char_start: int
    char_end: int
    pieces: Sequence[Piece]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A sequence that is shown, as a whole or in part."""

    split: str
    sequence_id: int
    num_tokens: int
    num_targets: int
    num_segments: int
    label: str | None
    """Name of the class; None = the targets are tokens, or a set of classes."""
    first_token: int
    """Of what is shown."""
    segments: Sequence[SampleSegment]
    """Those that are shown."""
    label_set: Sequence[str] | None = None
    """Names of the classes; None = the target is no set."""

    @property
    def num_shown(self) -> int:
        """Tokens that are shown."""
        return sum(len(piece.ids) for segment in self.segments for piece in segment.pieces)


_Amount = TypeVar("_Amount", Sequences, Documents)
_Key = TypeVar("_Key", bound=Hashable)


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """Everything that a page shows. Keys of the mappings need no order: the page sorts."""

    title: str
    tables: Sequence[TableVersion]
    """Sequences first, then the documents they were made from."""
    task: str
    sequence_length: int
    num_labels: int
    tokenizer: str
    """Fingerprint."""
    lengths: Mapping[tuple[str, int], Sequences]
    """(split, bits of the number of tokens: n = 2**(n-1) to 2**n - 1)."""
    fills: Mapping[tuple[str, int], int]
    """(split, tenths of sequence_length that are filled; FULL = all) -> sequences."""
    documents: Mapping[tuple[str, str, int], Documents]
    """(split, source, bits of the number of tokens of a document, with those that were cut off)."""
    samples: Sequence[Sample]

    @property
    def is_masked(self) -> bool:
        """Whether a training draws at every step which of the targets count."""
        return masks_targets(self.task)

    @property
    def has_token_targets(self) -> bool:
        """Whether the targets are tokens; else each sequence has one, its class or its best candidate."""
        return has_token_targets(self.task, self.num_labels)

    @property
    def splits(self) -> list[str]:
        found = {split for split, _ in self.lengths}
        return [*(name for name in SPLITS if name in found), *sorted(found - set(SPLITS))]

    def count(self, split: str | None = None) -> Sequences:
        """Of one split, or of all."""
        return sum((own for (of, _), own in self.lengths.items() if split in (None, of)), Sequences())

    def count_places(self, split: str | None = None) -> int:
        """Tokens that the sequences could hold; those that they hold if rows of several texts have more."""
        found = self.count(split)
        return max(found.tokens, found.sequences * self.sequence_length)

    def count_documents(self, split: str | None = None) -> Documents:
        return sum((own for (of, _, _), own in self.documents.items() if split in (None, of)), Documents())


def masks_targets(task: str) -> bool:
    """Whether the targets of the table are only those that may be masked."""
    return load_builder(task).needs_mask_token


def has_label_sets(task: str) -> bool:
    """Whether the target of a sequence is a set of classes."""
    return load_builder(task).has_label_sets


def has_token_targets(task: str, num_labels: int) -> bool:
    """Whether the targets of the table are tokens."""
    return not num_labels and task != RETRIEVAL


def sum_by(amounts: Iterable[tuple[_Key, _Amount]]) -> dict[_Key, _Amount]:
    """The amounts of equal keys together."""
    sums: dict[_Key, _Amount] = {}
    for key, amount in amounts:
        sums[key] = sums[key] + amount if key in sums else amount
    return sums


def pair_lengths(
    documents: Mapping[int, Documents], sequences: Mapping[int, Sequences]
) -> list[tuple[int, Documents, Sequences]]:
    """(bits, before packing, after packing) from the shortest to the longest, without gaps."""
    found = {*documents, *sequences}
    if not found:
        return []
    return [
        (bits, documents.get(bits, Documents()), sequences.get(bits, Sequences()))
        for bits in range(min(found), max(found) + 1)
    ]

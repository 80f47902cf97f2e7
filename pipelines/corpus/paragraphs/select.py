"""Which paragraphs are copies, and which text keeps them.

Each task keeps what it has seen (`Sightings`): of each paragraph the first few texts that have it. Sightings
of all tasks are merged by paragraph: the texts are counted, and the first is the owner (`find_copied`). Then
each text is judged alone (`mark_copies`).

Determinism: a merge takes the smallest place of each text, the first few texts, and whether there are more
than a limit. All three give the same result for any order, grouping and repetition of the sightings. So
neither the number of tasks, nor when a task empties its memory, nor a task that runs twice changes a text.

Cost: one row per task and different paragraph, for a frequent paragraph at most max_documents + 1: a line
that a billion documents have costs as many rows as there are tasks.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

_SPLIT_BITS, _SLICE_BITS, _RECORD_BITS = 2, 29, 32
"""63 in all: a place is a BIGINT."""


def pack_place(split: int, part: int, record: int) -> int:
    """Where a text is, as one number: places are ordered by split, then slice, then record in its slice.

    If slices are numbered by file and start, this is the order of (split, file, offset), however files are
    cut. Raises ValueError for a number that is too large.
    """
    fields = (("split", split, _SPLIT_BITS), ("slice", part, _SLICE_BITS), ("record", record, _RECORD_BITS))
    place = 0
    for name, number, bits in fields:
        if not 0 <= number < 1 << bits:
            raise ValueError(f"paragraphs: the {name} of a text must be below {1 << bits:,}, got {number:,}")
        place = place << bits | number
    return place


class Sighting(NamedTuple):
    """A text that has a paragraph."""

    paragraph: bytes
    """Its hash, as in `pieces.py`."""
    place: int
    """As `pack_place` gives it; the smallest is the first."""
    content: bytes
    """Hash of the text, so that equal texts count once."""


class Sightings:
    """What one task has seen. Memory: about 300 bytes for each pair of a paragraph and a text."""

    def __init__(self, max_documents: int) -> None:
        self._limit = max_documents + 1
        self._seen: dict[bytes, list[tuple[int, bytes]]] = {}
        self._num_kept = 0

        self.num_texts = 0
        """Since the sightings were taken."""

    def __len__(self) -> int:
        """Pairs of a paragraph and a text; take the sightings when there are too many for the memory."""
        return self._num_kept

    def add(self, paragraphs: Iterable[bytes | None], place: int, content: bytes) -> None:
        """Note the paragraphs of a text; None is not compared."""
        self.num_texts += 1
        for paragraph in paragraphs:
            if paragraph is not None:
                self._note(self._seen.setdefault(paragraph, []), place, content)

    def take(self) -> Iterator[Sighting]:
        """What has been seen since the last call, in the order in which it was seen first."""
        seen, self._seen, self._num_kept, self.num_texts = self._seen, {}, 0, 0
        for paragraph, texts in seen.items():
            for place, content in texts:
                yield Sighting(paragraph, place, content)

    def _note(self, texts: list[tuple[int, bytes]], place: int, content: bytes) -> None:
        for number, (known, other) in enumerate(texts):
            if other == content:
                texts[number] = (min(known, place), content)
                return
        texts.append((place, content))
        self._num_kept += 1
        if len(texts) > self._limit:
            texts.remove(max(texts))
            self._num_kept -= 1


def find_copied(sightings: Iterable[Sighting], max_documents: int) -> dict[bytes, bytes]:
    """Paragraph -> content of the first text that has it, for each paragraph that more than `max_documents`
    different texts have. Two texts with the same place: the smaller content is first."""
    texts: dict[bytes, dict[bytes, int]] = {}
    for paragraph, place, content in sightings:
        places = texts.setdefault(paragraph, {})
        places[content] = min(place, places.get(content, place))
    return {
        paragraph: min((place, content) for content, place in places.items())[1]
        for paragraph, places in texts.items()
        if len(places) > max_documents
    }


def mark_copies(
    paragraphs: Sequence[bytes | None], content: bytes, copied: Mapping[bytes, bytes], survivor: str
) -> list[bool]:
    """Whether each paragraph of a text goes: it is a copy, and no text keeps it, or another one.

    Not for a text that stays whole: one in a split that loses nothing, or equal to one there. A copy of it in
    train must stay equal, so that exact deduplication still finds it.
    """
    return [
        paragraph is not None
        and (owner := copied.get(paragraph)) is not None
        and (survivor == "none" or owner != content)
        for paragraph in paragraphs
    ]

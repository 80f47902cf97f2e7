"""Counts of a report in the groups that page and pictures show: lengths, languages, sizes of clusters."""

from collections.abc import Mapping
from typing import TypeVar

from pipelines.bars import format_bits
from pipelines.corpus.report.content import Amount, total

MAX_LANGUAGES = 20
NO_TEXT = "(no text)"
_Key = TypeVar("_Key")

Pair = tuple[Amount, Amount]
"""Kept and dropped."""


def group_lengths(lengths: Mapping[tuple[bool, int], Amount]) -> list[tuple[str, Pair]]:
    """(characters, documents of that length); each group is twice as wide as the one before, without gaps."""
    found = {bits for _, bits in lengths}
    if not found:
        return []
    return [(format_bits(bits), _pair(lengths, bits)) for bits in range(min(found), max(found) + 1)]


def group_languages(languages: Mapping[tuple[bool, str | None], Amount]) -> list[tuple[str, Pair]]:
    """(language, its documents), most frequent first; the rarest together in the last group."""
    pairs = [(language, _pair(languages, language)) for language in {language for _, language in languages}]
    pairs.sort(key=lambda item: (-(item[1][0] + item[1][1]).documents, item[0] or ""))
    groups = [(language or NO_TEXT, pair) for language, pair in pairs[:MAX_LANGUAGES]]
    if rest := pairs[MAX_LANGUAGES:]:
        kept, dropped = (total(pair[side] for _, pair in rest) for side in (0, 1))
        groups.append((f"{len(rest):,} other languages", (kept, dropped)))
    return groups


def _pair(amounts: Mapping[tuple[bool, _Key], Amount], key: _Key) -> Pair:
    return amounts.get((True, key), Amount()), amounts.get((False, key), Amount())


def group_clusters(sizes: Mapping[int, int]) -> list[tuple[str, int, int]]:
    """Sizes of clusters with their numbers -> (sizes, clusters, documents); 2, 3, 4, 5 to 8, 9 to 16 and so
    on."""
    groups: dict[tuple[int, int], tuple[int, int]] = {}
    for size, number in sorted(sizes.items()):
        low = size if size <= 4 else 2 ** ((size - 1).bit_length() - 1) + 1
        high = size if size <= 4 else 2 ** (size - 1).bit_length()
        clusters, texts = groups.get((low, high), (0, 0))
        groups[low, high] = (clusters + number, texts + size * number)
    return [
        (f"{low:,}" if low == high else f"{low:,} to {high:,}", clusters, texts)
        for (low, high), (clusters, texts) in groups.items()
    ]

"""Tokens of a corpus by source and outcome, estimated from the beginnings of some texts.

Counting all tokens would tokenize every text once more, those that were dropped too. Instead a sample is
taken of each pair of source and outcome, and its tokens per character are multiplied by the characters of
all, which are known. Only the beginning of a text is tokenized; the text counts by all its characters.
At most about MAX_TEXTS x TEXT_CHARS = 8 million characters are tokenized, on the driver, whatever the size of
the corpus: seconds.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from pipelines.corpus.report.content import Amount, TokenCounts

Cell = tuple[str, str | None]
"""(source, drop_reason; None = kept)."""

TEXT_CHARS = 2_000
"""Characters of a text that are tokenized, at most."""
MAX_TEXTS, MOST, FEWEST = 4_000, 200, 20
"""Expected texts in all; of a cell, at most and at least. With more than MAX_TEXTS / FEWEST cells, only those
with most characters have a sample."""


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """A tokenizer as a report needs it; `dataset.token_counter` makes one."""

    name: str
    """Whose tokens it counts, in words."""
    count: Callable[[Sequence[str]], Sequence[int]]
    """Texts -> tokens of each, without those that are put around a text. Raises ValueError if it cannot."""
    num_around: int = 0
    """Tokens that are put around every text."""


class SampledText(NamedTuple):
    """A document of the sample."""

    cell: Cell
    num_chars: int
    """Of the whole text."""
    beginning: str
    """At most TEXT_CHARS characters."""


def choose_cells(outcomes: Mapping[Cell, Amount]) -> dict[Cell, int]:
    """Cells that get a sample, with the number of texts to expect in it. Cells without characters need
    none."""
    cells = sorted(
        (cell for cell, amount in outcomes.items() if amount.chars),
        key=lambda cell: (-outcomes[cell].chars, cell[0], cell[1] or ""),
    )[: MAX_TEXTS // FEWEST]
    of_each = min(MOST, MAX_TEXTS // max(1, len(cells)))
    return dict.fromkeys(cells, of_each)


def estimate_tokens(
    outcomes: Mapping[Cell, Amount], sample: Sequence[SampledText], counter: TokenCounter
) -> dict[Cell, int]:
    """Tokens of every cell. One without a sample takes the tokens per character of its reason, or of all."""
    numbers = counter.count([text.beginning for text in sample])
    measured = list(zip(sample, numbers, strict=True))
    of_cells = _measure_ratios((text.cell, text, number) for text, number in measured)
    of_reasons = _measure_ratios((text.cell[1], text, number) for text, number in measured)
    of_all = _measure_ratios((None, text, number) for text, number in measured)

    def estimate(cell: Cell, amount: Amount) -> int:
        ratio = of_cells.get(cell, of_reasons.get(cell[1], of_all.get(None, 0.0)))
        return round(amount.chars * ratio) + counter.num_around * amount.documents if amount.chars else 0

    return {cell: estimate(cell, amount) for cell, amount in outcomes.items()}


_Key = TypeVar("_Key", bound=Hashable)


def _measure_ratios(measured: Iterable[tuple[_Key, SampledText, int]]) -> dict[_Key, float]:
    """Tokens per character by key; each text counts by its characters, of which its beginning is a sample."""
    sums: dict[_Key, tuple[float, int]] = {}
    for key, text, number in measured:
        if text.beginning:
            tokens, chars = sums.get(key, (0.0, 0))
            tokens += number / len(text.beginning) * text.num_chars
            sums[key] = (tokens, chars + text.num_chars)
    return {key: tokens / chars for key, (tokens, chars) in sums.items()}


def count_tokens(
    outcomes: Mapping[Cell, Amount],
    sample: Sequence[SampledText],
    counter: TokenCounter,
    kept: Mapping[str | None, int],
) -> TokenCounts | str:
    """The estimates, beside the exact tokens `kept`, see TokenCounts; or a sentence that says why the counter
    cannot count."""
    try:
        estimates = estimate_tokens(outcomes, sample, counter)
    except ValueError as error:
        return explain_unknown(error)
    return TokenCounts(tokenizer=counter.name, num_sampled=len(sample), estimates=estimates, kept=kept)


def explain_unknown(error: Exception) -> str:
    """What the report says where its tokenizer failed: the rest of it needs none."""
    return f"Tokens are not known: their tokenizer cannot be used ({error})."

"""What a report says, as plain values: no Spark, no HTML.

`counting.py` fills a `Content` from the tables, `page.py` makes HTML of it. Equal tables give equal content,
whatever machine counts them: there is no time of day in it but that of the commits.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from pipelines.bars import NO_BREAK, format_large
from pipelines.corpus.decontamination import CONTAMINATED
from pipelines.corpus.neardup.presets import NEAR_DUPLICATE
from pipelines.corpus.presets import PRESETS
from pipelines.corpus.rules import Rules
from pipelines.report import TableVersion

COPY = "exact_duplicate"
EXAMPLE_CHARS = 300
"""Characters of a text that an example shows."""
_ALL_RULES = Rules(languages=("en",), presets=tuple(PRESETS))
_SIZES, _LAST = ("empty", "too_short"), (COPY, NEAR_DUPLICATE)


@dataclass(frozen=True, slots=True)
class Amount:
    """A number of documents and of their characters."""

    documents: int = 0
    chars: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.documents + other.documents, self.chars + other.chars)

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(self.documents - other.documents, self.chars - other.chars)


@dataclass(frozen=True, slots=True)
class Tokens:
    """A number of tokens."""

    number: int
    is_exact: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenCounts:
    """Tokens by source and outcome: estimated from a sample, exact where a table of sequences tells."""

    tokenizer: str
    """Whose tokens they are, in words."""
    num_sampled: int
    """Documents of the sample."""
    estimates: Mapping[tuple[str, str | None], int]
    """(source, drop_reason; None = kept)."""
    kept: Mapping[str | None, int]
    """Exact tokens of the kept documents, by source (None = all together). Empty = no table of sequences was
    made from these documents; a source without documents in it may be missing."""

    def count(self, reason: str | None, source: str | None = None) -> Tokens:
        """Tokens of one outcome, of one source or of all."""
        if reason is None and source in self.kept:
            return Tokens(self.kept[source], is_exact=True)
        cells = self.estimates.items()
        return Tokens(sum(n for (of, why), n in cells if why == reason and source in (None, of)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Records of one source in quarantine for one kind of reason."""

    source: str
    kind: str
    num_records: int
    file: str
    offset: int
    """Of the first of them by file and offset. What the record holds is not shown: nothing is replaced in
    it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A document that a rule dropped."""

    doc_id: str
    source: str
    file: str
    offset: int
    num_chars: int
    text: str
    """Its first EXAMPLE_CHARS characters, as in table documents."""
    url: str | None = None
    """As `show_url` gives it."""
    duplicate_of: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """Everything that a page shows. Keys of the mappings need no order: the page sorts."""

    title: str
    tables: Sequence[TableVersion]
    """Documents first."""
    rules: Rules
    outcomes: Mapping[tuple[str, str | None], Amount]
    """(source, drop_reason; None = kept)."""
    lengths: Mapping[tuple[bool, int], Amount]
    """(kept, bits of the number of characters: n = 2**(n-1) to 2**n - 1, 0 = empty)."""
    languages: Mapping[tuple[bool, str | None], Amount] | None
    """(kept, language; None = empty text); None = no rule measured languages."""
    clusters: Mapping[tuple[str, int], int]
    """(COPY or NEAR_DUPLICATE, texts of the cluster) -> number of clusters."""
    searched: bool
    """Whether near duplicates were looked for."""
    contamination: Mapping[str, Mapping[str, int]] | None
    """Evaluation set -> its counts, see `evidence.count_contamination`; None = there is no such set."""
    removed: Mapping[str, Mapping[str, int]] | None
    """Source -> what its texts lost, see `paragraphs.evidence.count_removed`; None = they are whole."""
    faults: Sequence[Fault]
    examples: Mapping[str, Sequence[Example]]
    """By drop_reason."""
    tokens: Mapping[str, int] | None
    """Split -> tokens of the kept documents; None = no table of sequences was made from these documents."""
    token_counts: TokenCounts | str
    """By source and outcome; a text says why they are not known."""

    @property
    def sources(self) -> list[str]:
        """Sources with a document or a broken record, by name."""
        return sorted({source for source, _ in self.outcomes} | {fault.source for fault in self.faults})

    @property
    def quarantined(self) -> int:
        return sum(fault.num_records for fault in self.faults)

    def count(self, *, source: str | None = None) -> dict[str | None, Amount]:
        """Documents and characters by drop_reason (None = kept), of one source or of all."""
        sums: dict[str | None, Amount] = {}
        for (name, reason), amount in self.outcomes.items():
            if source in (None, name):
                sums[reason] = sums.get(reason, Amount()) + amount
        return sums

    @property
    def has_tokens(self) -> bool:
        return not isinstance(self.token_counts, str)

    def count_tokens(self, reasons: Iterable[str | None], *, source: str | None = None) -> Tokens | None:
        """Tokens of some outcomes together, of one source or of all; None = they are not known. Removed
        paragraphs are in no outcome."""
        if isinstance(self.token_counts, str):
            return None
        counts = [self.token_counts.count(reason, source) for reason in reasons]
        return Tokens(sum(each.number for each in counts), all(each.is_exact for each in counts))

    def count_removed(self, *, source: str | None = None) -> dict[str, int]:
        """Paragraphs, the documents that lost them, and the characters that went, of one source or of all."""
        counted = [of for name, of in (self.removed or {}).items() if source in (None, name)]
        sums = {name: sum(of[name] for of in counted) for name in ("paragraphs", "documents")}
        return {**sums, "chars": sum(of["read_chars"] - of["kept_chars"] for of in counted)}


def order_reasons(rules: Rules, found: Iterable[str]) -> list[str]:
    """Reasons in the order in which they are tried, those that dropped nothing too.

    Size, contamination if it is found, language, presets and word lists, then what `found` has besides, by
    name, then copies and near duplicates.
    """
    found = set(found)
    texts = [*({CONTAMINATED} & found), *(["language"] if rules.languages else [])]
    known = [*_SIZES, *texts, *(limit.rule for limit in rules.limits)]
    others = sorted(found - {*known, *_LAST})
    return [*known, *others, *_LAST]


def order_drops(found: Iterable[str]) -> list[str]:
    """The reasons that are found, in order, where the rules that gave them are not known."""
    known = list(found)
    return [each for each in order_reasons(_ALL_RULES, known) if each in known]


def total(amounts: Iterable[Amount]) -> Amount:
    return sum(amounts, Amount())


def format_tokens(tokens: Tokens | None) -> str:
    """Exact ones in full, estimates as "about" with three digits; - if they are not known."""
    if tokens is None:
        return "-"
    if tokens.is_exact or not tokens.number:
        return f"{tokens.number:,}"
    digits = 3 - len(str(tokens.number))
    number = format_large(round(tokens.number, min(0, digits)))
    return f"about {number.replace(' ', NO_BREAK)}"


def show_url(url: str | None) -> str | None:
    """Scheme, host and path of an address, without mail addresses in it. Queries, user names and mail
    addresses are personal data, and metadata is not searched for it. None for what is no web address."""
    try:
        parts = urlsplit(url or "")
        host = parts.hostname
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not host:
        return None
    path = "/".join("..." if "@" in part or "%40" in part else part for part in parts.path.split("/"))
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{path}"

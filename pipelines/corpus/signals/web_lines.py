"""The line rules of C4: which lines of a web page are text, and how many sentences those hold.

A line goes if it has a word of more than 1,000 characters, no punctuation mark at its end, few words, the
word javascript, or a phrase of a cookie or privacy notice. A text goes if it has lorem ipsum or a brace in a
line that is left. Texts are not changed here: `c4_..._line_fraction` says what would stay. `c4_lines.py`
removes lines by the same rules.

Source: Raffel et al. 2020, section 2.2, and the code of TensorFlow Datasets (text/c4_utils.py). Sentences are
counted with the tokens of `words.py`: a stop mark ends one if a token that is no punctuation follows.

Chinese: words come from the dictionary of `words.py`, and a line may end in a Chinese mark in every variant
(WIDE_MARKS, WIDE_QUOTE). English lines have none of them, so their verdicts are the published ones.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.corpus.signals.batch import Batch, Pieces, divide, place_sorted
from pipelines.corpus.signals.characters import HAN, PUNCTUATION, STOP
from pipelines.corpus.signals.lines import Lines
from pipelines.corpus.signals.words import split_tokens, split_words

MAX_WORD_CHARS = 1_000
CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
JAVASCRIPT, LOREM = "javascript", "lorem ipsum"
POLICIES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
ELLIPSES = ("...", "\u3002\u3002\u3002")
"""A line that ends so has no end mark. The character \u2026 is none in any variant."""
WIDE_STOPS = "\u3002\uff0e\uff61\uff01\uff1f"
"""Full stops, exclamation and question mark of Chinese and Japanese."""
WIDE_MARKS = WIDE_STOPS + "\u300d\u300f"
"""They and the closing quotation marks of vertical and traditional Chinese: end marks in every variant."""
WIDE_QUOTE = "\u201d"
"""English has this mark, too. Behind an ideograph or one of WIDE_STOPS it is Chinese, and an end mark."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LineRules:
    """What a line must have to stay."""

    min_words: int
    """Words, as `split_words` counts them."""
    end_marks: str
    """Characters of which one must end the line, but for Chinese lines; "" = any end will do."""
    reads_all_lines: bool = False
    """Whether lorem ipsum or a brace in any line drops the page, or only in a line with words and end."""
    counts_citations: bool = True
    """Whether a citation such as [1] is a word of its line."""


VARIANTS = {
    "paper": LineRules(min_words=5, end_marks='.?!"\u201d', reads_all_lines=True, counts_citations=False),
    "datatrove": LineRules(min_words=3, end_marks=".?!\"'"),
    "fineweb": LineRules(min_words=3, end_marks=""),
}


@dataclass(frozen=True, slots=True)
class LineFacts:
    """What the variants of the rules share, by line. All but words are read without citations."""

    num_words: np.ndarray
    num_words_bare: np.ndarray
    """Without citations."""
    has_long_word: np.ndarray
    num_sentences: np.ndarray
    has_script: np.ndarray
    has_policy: np.ndarray
    has_lorem: np.ndarray
    has_brace: np.ndarray
    has_end: dict[str, np.ndarray]
    """By the end marks of a variant."""


def describe_lines(batch: Batch, lines: Lines, words: Pieces, tokens: Pieces) -> LineFacts:
    """Words and tokens are those of `words.py`: ideographs are cut, so a line of Chinese has words too."""
    num_words = _count(words.start, lines.whole)
    has_long_word = _count(words.start[words.length > MAX_WORD_CHARS], lines.whole) > 0
    facts = LineFacts(
        num_words, num_words.copy(), has_long_word, *_read_lines(batch, lines.whole, lines.stripped, tokens)
    )
    cited = [number for number, text in enumerate(batch.texts) if "[" in text and CITATION.search(text)]
    if cited:  # only these texts are read again
        bare = Batch([_remove_citations(batch.texts[number]) for number in cited])
        pieces, at = bare.split_lines(), np.flatnonzero(np.isin(lines.whole.document, cited))
        facts.num_words_bare[at] = _count(split_words(bare).start, pieces)
        found = _read_lines(bare, pieces, pieces, split_tokens(bare))
        kept = facts.num_sentences, facts.has_script, facts.has_policy, facts.has_lorem, facts.has_brace
        for values, new in zip(kept, found[:-1], strict=True):
            values[at] = new
        for marks, new in found[-1].items():
            facts.has_end[marks][at] = new
    return facts


def _read_lines(
    batch: Batch, whole: Pieces, stripped: Pieces, tokens: Pieces
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Columns of LineFacts from num_sentences on."""
    script, policy, lorem = (
        _count(found, whole) > 0 for found in _find_phrases(batch, ((JAVASCRIPT,), POLICIES, (LOREM,)))
    )
    braces = _count(np.flatnonzero(batch.codes == ord("{")), whole) > 0
    marks = {rules.end_marks for rules in VARIANTS.values() if rules.end_marks}
    ends = {each: _end_in(batch, stripped, each) for each in marks}
    return _count_sentences(batch, tokens, whole), script, policy, lorem, braces, ends


def _count(positions: np.ndarray, lines: Pieces) -> np.ndarray:
    """How many of the positions, which ascend, are in each line."""
    return np.bincount(place_sorted(positions, lines.end), minlength=len(lines.start))


def _remove_citations(text: str) -> str:
    """The lines without outer white space, and then without citations. White space before one stays, so a
    line "text. [1]" ends in a space, as in both public codes."""
    return "\n".join(CITATION.sub("", line.strip()) for line in text.split("\n"))


def measure_variant(batch: Batch, lines: Lines, facts: LineFacts, name: str) -> dict[str, np.ndarray]:
    """Sentences of the lines that stay, their share of the non-blank lines, and the text's own faults."""
    rules, document = VARIANTS[name], lines.whole.document
    num_words = facts.num_words if rules.counts_citations else facts.num_words_bare
    stays = ~facts.has_long_word & (num_words >= rules.min_words) & ~lines.is_blank
    if rules.end_marks:
        stays &= facts.has_end[rules.end_marks]
    seen = ~lines.is_blank if rules.reads_all_lines else stays
    lorem = batch.count(document[seen & facts.has_lorem])
    # datatrove looks for a brace only in lines without javascript
    in_brace_lines = seen if rules.reads_all_lines else seen & ~facts.has_script
    braces = batch.count(document[in_brace_lines & facts.has_brace])
    stays &= ~facts.has_script & ~facts.has_policy
    num_lines = batch.count(document[~lines.is_blank])
    return {
        f"c4_{name}_num_sentences": batch.sum(document[stays], facts.num_sentences[stays]),
        f"c4_{name}_line_fraction": divide(batch.count(document[stays]), num_lines),
        f"c4_{name}_lorem_ipsum_lines": lorem,
        f"c4_{name}_brace_lines": braces,
    }


def _end_in(batch: Batch, stripped: Pieces, marks: str) -> np.ndarray:
    """Lines that end in one of the marks or a mark of Chinese, and not in three full stops."""
    end = stripped.end
    # White space stands before a line, so `second` of a line of one character is no mark.
    third, second, last = (np.maximum(end - place, 0) for place in (3, 2, 1))
    found = np.isin(batch.codes[last], list(map(ord, marks + WIDE_MARKS)))
    is_wide = (batch.classes[second] & HAN) != 0
    is_wide |= np.isin(batch.codes[second], list(map(ord, WIDE_STOPS)))
    found |= (batch.codes[last] == ord(WIDE_QUOTE)) & is_wide
    for ellipsis in map(ord, (each[0] for each in ELLIPSES)):
        three = (batch.codes[last] == ellipsis) & (batch.codes[second] == ellipsis)
        found &= ~(three & (batch.codes[third] == ellipsis) & (end - stripped.start >= 3))
    return found & (end > stripped.start)


def _find_phrases(batch: Batch, groups: Sequence[Sequence[str]]) -> list[np.ndarray]:
    """Where phrases of each group start, in lower case; ascending positions of the batch."""
    found: list[list[int]] = [[] for _ in groups]
    for start, text in zip(batch.starts.tolist(), batch.texts, strict=True):
        lower = text.lower()
        if len(lower) != len(text):  # a capital I with a dot becomes two characters
            lower = "".join(character.lower()[0] for character in text)
        for places, phrases in zip(found, groups, strict=True):
            for phrase in phrases:
                at = lower.find(phrase)
                while at >= 0:
                    places.append(start + at)
                    at = lower.find(phrase, at + len(phrase))
    return [np.array(sorted(places), np.int64) for places in found]


def _count_sentences(batch: Batch, tokens: Pieces, lines: Pieces) -> np.ndarray:
    """Sentences by line: 1, and 1 more for each stop mark that a token other than punctuation follows."""
    line = place_sorted(tokens.start, lines.end)
    classes, single = batch.classes[tokens.start], tokens.length == 1
    is_stop = single & ((classes & STOP) != 0)
    # Of longer tokens only runs of one mark (..., --) start and end with the same mark.
    same = batch.codes[tokens.end - 1] == batch.codes[tokens.start]
    is_mark = ((classes & PUNCTUATION) != 0) & same
    others = np.flatnonzero(~is_mark)
    # Stops before each token: 0 at the start of a line, as no sentence reaches into the next one.
    stops = np.concatenate(([0], np.cumsum(is_stop)))
    before = stops[others] - stops[np.searchsorted(line, line[others])]
    is_first = np.diff(line[others], prepend=-1) != 0
    follows = before > np.where(is_first, 0, np.concatenate(([0], before))[: len(before)])
    num_lines = len(lines.start)
    sentences = np.bincount(line[others][follows], minlength=num_lines)
    return sentences + (np.bincount(line, minlength=num_lines) > 0)

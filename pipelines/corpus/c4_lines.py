"""Text of a web page -> the lines that C4 keeps, without citations such as [1].

A line goes if it has a word of more than 1,000 characters, no punctuation mark at its end, few words, the
word javascript, or a phrase of a cookie or privacy notice; blank lines go, too. What stays has no outer white
space. The variants are those of the signals (`signals/web_lines.py`): `paper` is the latest paper and the
code of TensorFlow Datasets, `datatrove` is JMLR 21(140) and datatrove's C4QualityFilter, `fineweb` is that
without the rule of the end.

C4 then drops whole pages; so do the presets c4@VARIANT, not this step. A line for which C4 drops the page
(lorem ipsum, a brace) stays, so that the rule of the preset still sees it. A page without any line left is
empty, and dropped as that.

Chinese: words come from a dictionary, and a line may end in a Chinese mark, see `signals/web_lines.py`. A
word of more than 1,000 characters is a run of them without white space and ideographs. Japanese kana, Thai,
Lao and Khmer are not cut into words: a line of them is one word, and goes.

With `datatrove` and `fineweb` a citation is a word of its line, as in datatrove. So cleaning a clean text
again may remove a line that has too few words without its citations.

Cost: linear in the text. Memory: 65,536 characters of lines or one line, and what stays.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from pipelines.corpus.signals.batch import Batch
from pipelines.corpus.signals.characters import HAN_RANGES
from pipelines.corpus.signals.web_lines import (
    CITATION,
    ELLIPSES,
    JAVASCRIPT,
    LOREM,
    MAX_WORD_CHARS,
    POLICIES,
    VARIANTS,
    WIDE_MARKS,
    WIDE_QUOTE,
    WIDE_STOPS,
    LineRules,
)
from pipelines.corpus.signals.words import split_words

LINES, CITATIONS = "c4_lines", "c4_citations"
"""What is counted: lines with text that were removed, and citations removed from lines that stay."""
_MAX_CHARS = 65_536
"""Characters of lines whose words are counted at once: the arrays of one batch, 10 MB."""
_LINE = re.compile("[^\\n]+")
_HAN = "".join(f"{chr(first)}-{chr(end - 1)}" for first, end in HAN_RANGES)
_IDEOGRAPH = re.compile(f"[{_HAN}]")
# Tried at the first character of a run only: from each character on, it would take 1,000 times as long.
_LONG_WORD = re.compile(f"(?<![^\\s{_HAN}])[^\\s{_HAN}]{{{MAX_WORD_CHARS + 1}}}")
_WIDE_QUOTE_END = re.compile(f"[{_HAN}{WIDE_STOPS}]{WIDE_QUOTE}$")


def remove_lines(text: str, variant: str) -> tuple[str, dict[str, int]]:
    """The lines that stay, and how many lines and citations were removed (only what was found).

    `text` is normalised: line ends are LF.
    """
    rules, kept, counts = VARIANTS[variant], list[str](), Counter[str]()
    for lines in _deal(text):
        found = [CITATION.subn("", line) if "[" in line else (line, 0) for line in lines]
        are_texts = _find_texts(lines, [bare for bare, _ in found], rules)
        for (bare, num_citations), is_text in zip(found, are_texts, strict=True):
            if _stays(bare, is_text, rules):
                kept.append(bare.strip())
                counts[CITATIONS] += num_citations
            else:
                counts[LINES] += 1
    return "\n".join(kept), dict(+counts)


def _deal(text: str) -> Iterator[list[str]]:
    """The lines with text, without outer white space, some at a time."""
    lines, num_chars = list[str](), 0
    for found in _LINE.finditer(text):
        if line := found[0].strip():
            lines.append(line)
            num_chars += len(line)
        if num_chars >= _MAX_CHARS:
            yield lines
            lines, num_chars = [], 0
    yield lines


def _find_texts(lines: Sequence[str], bare: Sequence[str], rules: LineRules) -> list[bool]:
    """Whether each line has an end mark, words enough, and none that is too long."""
    found = [
        (not rules.end_marks or _has_end(end, rules.end_marks))
        and (len(line) <= MAX_WORD_CHARS or not _LONG_WORD.search(line))
        for line, end in zip(lines, bare, strict=True)
    ]
    counted = lines if rules.counts_citations else bare
    asked = [place for place, is_text in enumerate(found) if is_text]
    enough = _have_words([counted[place] for place in asked], rules.min_words)
    for place, has_words in zip(asked, enough, strict=True):
        found[place] = has_words
    return found


def _stays(bare: str, is_text: bool, rules: LineRules) -> bool:
    """Whether a line without citations stays."""
    if not is_text and not rules.reads_all_lines:
        return False
    lower = bare.lower()
    if LOREM in lower or ("{" in bare and (rules.reads_all_lines or JAVASCRIPT not in lower)):
        return True  # the page goes, and the rule that drops it must see why
    return is_text and JAVASCRIPT not in lower and not any(phrase in lower for phrase in POLICIES)


def _has_end(line: str, marks: str) -> bool:
    if line.endswith(ELLIPSES):
        return False
    return line.endswith((*marks, *WIDE_MARKS)) or _WIDE_QUOTE_END.search(line[-2:]) is not None


def _have_words(lines: Sequence[str], min_words: int) -> list[bool]:
    """Whether each line has that many words. Needs lines without a word of more than 1,000 characters."""
    enough, asked = list[bool](), dict[int, str]()
    for place, line in enumerate(lines):
        pieces = line.split(maxsplit=min_words - 1)
        # These are all pieces. Words of the dictionary are short, so long pieces hold enough of them.
        is_long = sum(map(len, pieces)) > MAX_WORD_CHARS * min_words
        is_chinese = len(pieces) < min_words and _IDEOGRAPH.search(line) is not None
        enough.append(len(pieces) >= min_words or (is_chinese and is_long))
        if is_chinese and not is_long:
            # Joined again, because the arrays of a batch take 150 bytes a character, and white space has no
            # limit.
            asked[place] = " ".join(pieces)
    if asked:
        batch = Batch(list(asked.values()))
        for place, num_words in zip(asked, batch.count(split_words(batch).document), strict=True):
            enough[place] = bool(num_words >= min_words)
    return enough

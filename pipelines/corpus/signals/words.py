"""Words and tokens of a batch.

Words: what white space separates, punctuation included, as in the papers ("late," is one word of 5
characters). Tokens: words without punctuation, and each punctuation mark, as datatrove counts them (spaCy's
English tokenizer): "late," is two, "don't" is do + n't, "well-known" is three, "3.14", "Mr." and "..." are
one.

Chinese has no white space, so ideographs are cut by a dictionary (jieba's, by the Rust library rjieba):
银行卡|还|没有|到. In words a following mark belongs to the word before it. Japanese kana, Thai, Lao and
Khmer are not cut: a run of letters is one word.
"""

from functools import cache

import numpy as np

from pipelines.corpus.signals.batch import Batch, Pieces, hash_word
from pipelines.corpus.signals.characters import HAN, LETTER, LOWER, NUMBER, SPACE, SYMBOL, UPPER, WORD

_ABBREVIATIONS = """
    Adm Bros Co Corp Dr Gen Gov Inc Jr Ltd Messrs Mr Mrs Ms Mt Ph.D Prof Rep Rev Sen Sr St co e.g E.g i.e I.e
    vs v.s a.m p.m D.C Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec
"""
"""Their last period is part of the token and ends no sentence."""
_CLITICS = ("s", "m", "d", "ll", "ve", "re")
"""Endings behind an apostrophe that are tokens of their own, with the apostrophe: it|'s."""
_APOSTROPHES = (0x27, 0x2019)
_RUNS = (0x2D, 0x2E)
"""Marks that form one token when repeated: ... and --."""


def split_words(batch: Batch) -> Pieces:
    """Words: between white space, ideographs cut by a dictionary."""
    solid = ~batch.is_class(SPACE)
    starts = solid.copy()
    starts[1:] &= ~solid[:-1]
    if batch.is_class(HAN).any():
        starts[1:] |= cut_ideographs(batch)[1:] & batch.is_class(WORD)[1:]
    return _make_pieces(batch, starts, solid)


def split_tokens(batch: Batch) -> Pieces:
    """Tokens: words without punctuation, and each mark."""
    solid, word = ~batch.is_class(SPACE), batch.is_class(WORD)
    joined, clitics = _join_marks(batch, word)
    together = word | joined
    repeated = np.isin(batch.codes, _RUNS)
    starts = solid.copy()
    starts[1:] &= ~(together[1:] & together[:-1])
    starts[1:] &= ~(repeated[1:] & (batch.codes[1:] == batch.codes[:-1]))
    starts[clitics] = True
    if batch.is_class(HAN).any():
        starts[1:] |= cut_ideographs(batch)[1:] & together[1:] & together[:-1]
    starts[_find_attached_periods(batch, starts, solid)] = False
    return _make_pieces(batch, starts, solid)


def _make_pieces(batch: Batch, starts: np.ndarray, solid: np.ndarray) -> Pieces:
    """Pieces that end before the next start or white space. Every batch ends with a line break."""
    ends = np.zeros_like(starts)
    ends[:-1] = solid[:-1] & (starts[1:] | ~solid[1:])
    first = np.flatnonzero(starts)
    return Pieces(start=first, end=np.flatnonzero(ends) + 1, document=batch.find_documents(first))


def _join_marks(batch: Batch, word: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Marks that stand inside a token (bool by character), and the characters where a clitic starts."""
    codes, classes = batch.codes, batch.classes
    joined = np.zeros(len(codes), bool)
    at = np.flatnonzero(batch.is_class(SYMBOL)[1:-1] & word[:-2] & word[2:]) + 1
    mark, before, behind = codes[at], classes[at - 1], classes[at + 1]
    letters = ((before & LETTER) != 0) & ((behind & LETTER) != 0)
    breaks = {
        ".": ((before & LOWER) != 0) & ((behind & UPPER) != 0),
        ",": letters,
        ":<>=/": (behind & LETTER) != 0,
        "+*^": ((before & NUMBER) != 0) & ((behind & NUMBER) != 0),
        "@_&#%$|": np.zeros(len(at), bool),
    }
    for marks, is_break in breaks.items():
        joined[at[np.isin(mark, list(map(ord, marks))) & ~is_break]] = True
    quotes = at[np.isin(mark, _APOSTROPHES)]
    joined[quotes] = True
    return joined, _find_clitics(codes, word, quotes)


def _find_clitics(codes: np.ndarray, word: np.ndarray, quotes: np.ndarray) -> np.ndarray:
    """The first character of each clitic at an apostrophe between letters; of n't this is the n."""
    lower, found = codes | 32, []
    for ending in _CLITICS:
        inside = quotes[quotes + len(ending) + 1 < len(codes)]
        fits = ~word[inside + len(ending) + 1]
        for offset, letter in enumerate(ending, start=1):
            fits &= lower[inside + offset] == ord(letter)
        found.append(inside[fits])
    inside = quotes[quotes + 2 < len(codes)]
    fits = (lower[inside - 1] == ord("n")) & (lower[inside + 1] == ord("t")) & ~word[inside + 2]
    return np.concatenate([*found, inside[fits] - 1])


def _find_attached_periods(batch: Batch, starts: np.ndarray, solid: np.ndarray) -> np.ndarray:
    """Periods that belong to the token before: behind a single capital (J. R.; U.S.) or an abbreviation."""
    codes, classes = batch.codes, batch.classes
    is_period = (codes == 0x2E) & starts
    is_period[1:-1] &= solid[:-2] & ((classes[:-2] & LETTER) != 0) & (codes[2:] != 0x2E)
    is_period[[0, -1]] = False
    periods = np.flatnonzero(is_period)
    all_starts = np.flatnonzero(starts)
    token = all_starts[np.searchsorted(all_starts, periods) - 1]
    is_initial = ((classes[periods - 1] & UPPER) != 0) & (
        (token == periods - 1) | (codes[np.maximum(periods - 2, 0)] == 0x2E)
    )
    before = Pieces(start=token, end=periods, document=np.zeros(len(periods), np.int64))
    return periods[is_initial | np.isin(batch.hash(before), _hash_abbreviations())]


@cache
def _hash_abbreviations() -> np.ndarray:
    return np.array([hash_word(word) for word in _ABBREVIATIONS.split()])


def cut_ideographs(batch: Batch) -> np.ndarray:
    """Where a word starts at an ideograph or behind one (bool by character)."""
    import rjieba  # the dictionary takes 0.2 s to load, and most corpora need none

    han = batch.is_class(HAN)
    starts = np.zeros(len(han), bool)
    starts[1:] = han[1:] | han[:-1]
    for number in np.unique(batch.find_documents(np.flatnonzero(han))):
        first, end = batch.starts[number], batch.ends[number]
        lengths = np.fromiter(map(len, rjieba.cut(batch.texts[number])), np.int64)
        cuts = np.zeros(end - first, bool)
        cuts[np.cumsum(lengths)[:-1]] = True
        cuts[0] = True
        within = han[first:end].copy()
        within[1:] &= within[:-1]  # two neighbours that are both ideographs: the dictionary decides
        within[0] = False
        starts[first:end] &= cuts | ~within
    return starts

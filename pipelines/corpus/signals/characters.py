"""The classes of a character, as bits in one table over all code points.

A text is an array of code points, so one look-up gives the classes of all its characters. The table has 2
MB and takes 0.1 s to build, once per process.
"""

import unicodedata
from functools import cache

import numpy as np

LETTER, NUMBER, MARK, SPACE, UPPER, LOWER, HAN, SYMBOL, PUNCTUATION, STOP = (1 << bit for bit in range(10))
WORD = LETTER | NUMBER | MARK
"""Characters of a word. SYMBOL: punctuation, symbols (currency, arithmetic, arrows) and control characters.
STOP: characters that end a sentence, in any script."""

HAN_RANGES = ((0x3005, 0x3008), (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0x20000, 0x323B0))
"""Ideographs, first to last + 1; 々, 〆 and 〇 too."""
_ASSIGNED = ((0, 0x323B0), (0xE0000, 0xE0200))
"""Where letters, numbers, marks and symbols are; the rest is private or not assigned."""
_SENTENCE_TERMINALS = """
    21 2e 3f 589 61d-61f 6d4 700-702 7f9 837 839 83d-83e 964-965 104a-104b 1362 1367-1368 166e 1735-1736
    17d4-17d6 17d9-17da 1803 1809 1944-1945 1aa8-1aab 1b4e-1b4f 1b5a-1b5b 1b5e-1b5f 1b7d-1b7f 1c3b-1c3c
    1c7e-1c7f 2024 203c-203d 2047-2049 2cf9-2cfb 2e2e 2e3c 2e53-2e54 2e60-2e61 3002 a4ff a60e-a60f a6f3
    a6f7 a876-a877 a8ce-a8cf a92f a9c8-a9c9 aa5d-aa5f aaf0-aaf1 abeb fe12 fe15-fe16 fe52 fe56-fe57 ff01
    ff0e ff1f ff61 10a56-10a57 10f55-10f59 10f86-10f89 11047-11048 110be-110c1 11141-11143 111c5-111c6
    111cd 111de-111df 11238-11239 1123b-1123c 112a9 113d4-113d5 1144b-1144c 115c2-115c3 115c9-115d7
    11641-11642 1173c-1173e 11944 11946 11a42-11a43 11a9b-11a9c 11c41-11c42 11ef7-11ef8 11f43-11f44
    16a6e-16a6f 16af5 16b37-16b38 16b44 16d6e-16d6f 16e98 1bc9f 1da88
"""
"""Unicode 16, property Sentence_Terminal, and three marks of Khmer. Written out, so that the result does not
change with the version of Python."""


@cache
def classify_characters() -> np.ndarray:
    """Classes by code point, (0x110000,) uint16. Read-only."""
    table = np.zeros(0x110000, np.uint16)
    for first, end in _ASSIGNED:
        for code in range(first, end):
            table[code] = _classify(chr(code))
    for first, end in HAN_RANGES:
        table[first:end] |= HAN
    for part in _SENTENCE_TERMINALS.split():
        low, _, high = part.partition("-")
        table[int(low, 16) : int(high or low, 16) + 1] |= STOP
    table.flags.writeable = False
    return table


def _classify(character: str) -> int:
    category = unicodedata.category(character)
    classes = {"L": LETTER, "N": NUMBER, "M": MARK, "P": SYMBOL | PUNCTUATION, "S": SYMBOL}.get(
        category[0], 0
    )
    if category == "Lu":
        classes |= UPPER
    elif category == "Ll":
        classes |= LOWER
    elif category == "Cc":
        classes |= SYMBOL
    return SPACE if character.isspace() else classes

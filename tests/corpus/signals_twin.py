"""The signals again, one text at a time, with strings, sets and regular expressions: slow and plain.

Written from the definitions, not from the arrays of `pipelines/corpus/signals`. Chinese words come from the
same dictionary.
"""

import re
import unicodedata
from collections import Counter
from itertools import pairwise

import rjieba

from pipelines.corpus.signals.characters import STOP, classify_characters

_WRITTEN = """
    Adm Bros Co Corp Dr Gen Gov Inc Jr Ltd Messrs Mr Mrs Ms Mt Ph.D Prof Rep Rev Sen Sr St co e.g E.g i.e I.e
    vs v.s a.m p.m D.C Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec
"""
ABBREVIATIONS = set(_WRITTEN.split())
ENGLISH = ["the", "be", "to", "of", "and", "that", "have", "with"]
CHINESE = list("的年在月是和日了於·為有被人中为他與後也而由")
POLICIES = [
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
]
CITATION = r"\[\d*\]|\[edit\]|\[citation needed\]"
CHINESE_ENDS = set("。．｡！？」』")
C4 = {"paper": (5, '.?!"”'), "datatrove": (3, ".?!\"'"), "fineweb": (3, "")}


def is_letter(c):
    return unicodedata.category(c)[0] == "L"


def is_word(c):
    return unicodedata.category(c)[0] in "LNM" and not c.isspace()


def is_symbol(c):
    return (unicodedata.category(c)[0] in "PS" or unicodedata.category(c) == "Cc") and not c.isspace()


def is_han(c):
    code = ord(c)
    ranges = ((0x3005, 0x3008), (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0x20000, 0x323B0))
    return any(first <= code < end for first, end in ranges)


def is_stop(c):
    return bool(classify_characters()[ord(c)] & STOP)


def dictionary_cuts(text):
    """Indices at which a word starts, where an ideograph stands on at least one side."""
    place, starts = 0, set()
    for piece in rjieba.cut(text):
        starts.add(place)
        place += len(piece)
    cuts = set()
    for i in range(1, len(text)):
        han = is_han(text[i - 1]) + is_han(text[i])
        if han == 1 or (han == 2 and i in starts):
            cuts.add(i)
    return cuts


def words_of(text):
    cuts = dictionary_cuts(text) if any(map(is_han, text)) else set()
    words = []
    for run in re.finditer(r"\S+", text):
        start = run.start()
        for i in range(run.start() + 1, run.end()):
            if i in cuts and is_word(text[i]):
                words.append(text[start:i])
                start = i
        words.append(text[start : run.end()])
    return words


def joins(text, i):
    """Whether the mark at i stands inside a token."""
    before, mark, behind = text[i - 1], text[i], text[i + 1]
    if mark in "'’@_&#%$|":
        return True
    if mark == ".":
        return not (unicodedata.category(before) == "Ll" and unicodedata.category(behind) == "Lu")
    if mark == ",":
        return not (is_letter(before) and is_letter(behind))
    if mark in ":<>=/":
        return not is_letter(behind)
    if mark in "+*^":
        return not (unicodedata.category(before)[0] == "N" and unicodedata.category(behind)[0] == "N")
    return False


def tokens_of(text):
    cuts = dictionary_cuts(text) if any(map(is_han, text)) else set()
    inside = {
        i
        for i in range(1, len(text) - 1)
        if is_symbol(text[i]) and is_word(text[i - 1]) and is_word(text[i + 1]) and joins(text, i)
    }
    together = [is_word(c) or i in inside for i, c in enumerate(text)]
    clitics = set()
    for i in inside:
        if text[i] in "'’":
            for ending in ("s", "m", "d", "ll", "ve", "re"):
                behind = text[i + 1 + len(ending) : i + 2 + len(ending)]
                if text[i + 1 : i + 1 + len(ending)].lower() == ending and not any(map(is_word, behind)):
                    clitics.add(i)
            behind = text[i + 2 : i + 3]
            if text[i - 1] in "nN" and text[i + 1] in "tT" and not any(map(is_word, behind)):
                clitics.add(i - 1)
    starts = []
    for i, c in enumerate(text):
        if c.isspace():
            continue
        first = i == 0 or text[i - 1].isspace()
        glued = not first and together[i] and together[i - 1] and i not in cuts
        repeated = not first and c == text[i - 1] and c in ".-"
        if i in clitics or first or not (glued or repeated):
            starts.append(i)
    for i in [i for i in starts if text[i] == "."]:
        if i == 0 or not is_letter(text[i - 1]) or text[i + 1 : i + 2] == ".":
            continue
        token = max(s for s in starts if s < i)
        initial = unicodedata.category(text[i - 1]) == "Lu" and (token == i - 1 or text[i - 2] == ".")
        if initial or text[token:i] in ABBREVIATIONS:
            starts.remove(i)
    return [text[a:b].split()[0] for a, b in pairwise([*starts, len(text)])]


def copies(pieces):
    seen, found = set(), []
    for piece in pieces:
        if piece in seen:
            found.append(piece)
        seen.add(piece)
    return len(found), sum(map(len, found))


def top_gram(units, n, size):
    grams = [tuple(units[i : i + n]) for i in range(len(units) - n + 1)]
    if not grams:
        return 0.0
    gram, count = Counter(grams).most_common(1)[0]  # of equal counts, the first in the text
    return len(" ".join(gram)) * count / size


def covered(units, n, size):
    seen, marked = set(), set()
    for i in range(len(units) - n + 1):
        gram = tuple(units[i : i + n])
        if gram in seen:
            marked |= set(range(i, i + n))
        seen.add(gram)
    return sum(len(units[i]) for i in marked) / size


def skipping(units, n, size):
    seen, found, i = set(), 0, 0
    while i <= len(units) - n:
        gram = tuple(units[i : i + n])
        if gram in seen:
            found += len("".join(gram))
            i += n
        else:
            seen.add(gram)
            i += 1
    return found / size


def sentences_of(line):
    tokens = tokens_of(line)
    count, stopped = (1 if tokens else 0), False
    for token in tokens:
        mark = all(unicodedata.category(c)[0] == "P" for c in token)
        if len(token) == 1 and is_stop(token):
            stopped = True
        elif not mark:
            count += stopped
            stopped = False
    return count


def c4(text, variant):
    min_words, ends = C4[variant]
    kept, sentences, lorem, brace = 0, 0, 0, 0
    lines = [line for line in text.split("\n") if line.strip()]
    for line in lines:
        end = re.sub(CITATION, "", line.strip())
        lower, words = end.lower(), words_of(end if variant == "paper" else line)
        longest = max(map(len, words_of(line)))
        before = end[-2:-1]
        quote = end[-1:] == "”" and before != "" and (is_han(before) or before in "。．｡！？")
        chinese = quote or end[-1:] in CHINESE_ENDS
        good_end = not ends or (end[-1:] != "" and (end[-1] in ends or chinese))
        good_end &= not ends or not end.endswith(("...", "。。。"))
        stays = good_end and len(words) >= min_words and longest <= 1000
        if variant == "paper" or stays:
            lorem += "lorem ipsum" in lower
            brace += "{" in end and (variant == "paper" or "javascript" not in lower)
        if stays and "javascript" not in lower and not any(policy in lower for policy in POLICIES):
            kept += 1
            sentences += sentences_of(end)
    values = (sentences, kept / len(lines) if lines else 0.0, lorem, brace)
    names = ("num_sentences", "line_fraction", "lorem_ipsum_lines", "brace_lines")
    return {f"c4_{variant}_{name}": value for name, value in zip(names, values, strict=True)}


def part(a, b):
    return a / b if b else 0.0


def measure(text):
    """Every signal of one text, by name."""
    size, words, tokens = len(text), words_of(text), tokens_of(text)
    ellipses = text.count("...") + text.count("…")
    every = text.split("\n")
    lines = [line for line in every if line.strip()]
    plain = [token for token in tokens if not all(map(is_symbol, token))]
    paragraphs = [p for p in re.split(r"\n{2,}", text) if p]
    ended = sum(line.rstrip().endswith(("...", "…")) for line in lines)
    line_copies, line_chars = copies(lines)
    paragraph_copies, paragraph_chars = copies(paragraphs)
    found = {
        "num_words": len(words),
        "mean_word_length": part(sum(map(len, words)), len(words)),
        "alpha_word_fraction": part(sum(any(map(is_letter, w)) for w in words), len(words)),
        "hash_word_ratio": part(text.count("#"), len(words)),
        "ellipsis_word_ratio": part(ellipses, len(words)),
        "num_tokens": len(tokens),
        "num_word_tokens": len(plain),
        "mean_token_length": part(sum(map(len, plain)), len(plain)),
        "alpha_token_fraction": part(sum(any(map(is_letter, t)) for t in tokens), len(tokens)),
        "hash_token_ratio": part(text.count("#"), len(tokens)),
        "ellipsis_token_ratio": part(ellipses, len(tokens)),
        "line_break_token_ratio": part(text.count("\n"), len(tokens)),
        "num_stop_words": sum(bool({w, w.title(), w.upper()} & set(tokens)) for w in ENGLISH),
        "num_exact_stop_words": len(set(ENGLISH) & set(tokens)),
        "num_chinese_stop_words": len(set(CHINESE) & set(tokens)),
        "num_lines": len(lines),
        "bullet_line_fraction": part(sum(line.lstrip()[0] in "•‣◦⁃●▪■-*" for line in lines), len(lines)),
        "bullet_all_line_fraction": part(sum(line.lstrip()[0] in "•-" for line in lines), len(every)),
        "ellipsis_line_fraction": part(ended, len(lines)),
        "ellipsis_all_line_fraction": part(ended, len(every)),
        "duplicate_line_fraction": part(line_copies, len(lines)),
        "duplicate_line_char_fraction": part(line_chars, size),
        "duplicate_line_char_fraction_of_lines": part(line_chars, size - text.count("\n")),
        "stop_line_fraction": part(sum(is_stop(line[-1]) for line in lines), len(lines)),
        "short_line_fraction": part(sum(len(line) <= 30 for line in lines), len(lines)),
        "duplicate_paragraph_fraction": part(paragraph_copies, len(paragraphs)),
        "duplicate_paragraph_char_fraction": part(paragraph_chars, size),
    }
    for unit, units, copied in (("word", words, covered), ("token", tokens, skipping)):
        for n in (2, 3, 4):
            found[f"top_{n}_gram_{unit}_fraction"] = top_gram(units, n, size)
        for n in (5, 6, 7, 8, 9, 10):
            found[f"duplicate_{n}_gram_{unit}_fraction"] = copied(units, n, size) if size else 0.0
    for variant in C4:
        found |= c4(text, variant)
    return found

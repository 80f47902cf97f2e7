"""datatrove's verdicts. Runs with datatrove's own Python, and imports nothing of this project.

In: lines of JSON with `language` and `text`. Out, one line of JSON each: `failed`, by variant the reasons for
which datatrove drops the text, in the order in which it looks for them, so the first is the one that it
gives; `c4_lines`, by variant of C4 the first 16 digits of the sha256 of what its filter leaves of the text,
null where a line drops the page. A first line gives the versions.

A filter stops at its first reason. To know them all, each rule also runs alone, with the others off.
"""

import copy
import hashlib
import json
import sys
from importlib.metadata import version

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)

PACKAGES = ("datatrove", "spacy", "jieba")
# Of each filter, in its order: reason, attribute of the rule, value that switches the rule off.
REPETITION = [
    ("dup_para_frac", "dup_para_frac", None),
    ("dup_para_char_frac", "dup_para_char_frac", None),
    ("dup_line_frac", "dup_line_frac", None),
    ("dup_line_char_frac", "dup_line_char_frac", None),
    *((f"top_{n}_gram", "top_n_grams", ()) for n in (2, 3, 4)),
    *((f"duplicated_{n}_n_grams", "dup_n_grams", ()) for n in (5, 6, 7, 8, 9, 10)),
]
QUALITY = [
    ("gopher_short_doc", "min_doc_words", None),
    ("gopher_long_doc", "max_doc_words", None),
    ("gopher_below_avg_threshold", "min_avg_word_length", None),
    ("gopher_above_avg_threshold", "max_avg_word_length", None),
    ("gopher_too_many_hashes", "max_symbol_word_ratio", None),
    ("gopher_too_many_ellipsis", "max_symbol_word_ratio", None),
    ("gopher_too_many_bullets", "max_bullet_lines_ratio", None),
    ("gopher_too_many_end_ellipsis", "max_ellipsis_lines_ratio", None),
    ("gopher_below_alpha_threshold", "max_non_alpha_words_ratio", None),
    ("gopher_enough_stop_words", "min_stop_words", None),
]
FINEWEB = [
    ("line_punct_ratio", "line_punct_thr", 0),
    ("short_line_ratio", "short_line_threshold", 1),
    ("char_dup_ratio", "char_duplicates_ratio", 1),
    ("list_ratio", "new_line_ratio", float("inf")),
]
C4 = [
    ("lorem_ipsum", "filter_lorem_ipsum", False),
    ("curly_bracket", "filter_curly_bracket", False),
    ("too_few_sentences", "min_num_sentences", -1),
]
# FineWeb-2: fineweb-2-pipeline.py with configs/cmn_Hani.yml.
CHINESE = "cmn_Hani"
TOP = [(2, 0.256), (3, 0.201), (4, 0.171)]
DUPLICATED = [(5, 0.198), (6, 0.182), (7, 0.167), (8, 0.154), (9, 0.14), (10, 0.127)]
STOP_WORDS = list("的年在月是和日了於·為有被人中为他與後也而由")
CHINESE_CHAIN = [
    (
        GopherRepetitionFilter(
            language=CHINESE,
            dup_para_frac=0,
            dup_line_char_frac=0,
            dup_para_char_frac=0,
            dup_line_frac=0.287,
            top_n_grams=TOP,
            dup_n_grams=DUPLICATED,
        ),
        REPETITION,
    ),
    (
        FineWebQualityFilter(
            language=CHINESE,
            short_line_thr=999,
            char_duplicates_ratio=0.1,
            line_punct_thr=0.106,
            new_line_ratio=0.178,
        ),
        FINEWEB,
    ),
    (
        GopherQualityFilter(
            language=CHINESE,
            max_avg_word_length=5,
            min_avg_word_length=1,
            stop_words=STOP_WORDS,
            max_non_alpha_words_ratio=0.735,
            min_stop_words=2,
        ),
        QUALITY,
    ),
]
CHAINS = {
    "en": {
        "gopher_repetition@datatrove": [(GopherRepetitionFilter(), REPETITION)],
        "gopher_quality@datatrove": [(GopherQualityFilter(), QUALITY)],
        "c4@datatrove": [(C4QualityFilter(), C4)],
        "c4@fineweb": [(C4QualityFilter(filter_no_terminal_punct=False), C4)],
        "fineweb": [(FineWebQualityFilter(), FINEWEB)],
    },
    "zh": {"fineweb2@cmn_Hani": CHINESE_CHAIN},
}


def leave_one(whole, rules, reason, attribute):
    """The filter with only one of its rules."""
    alone = copy.copy(whole)
    for _, each, off in rules:
        if each != attribute:
            setattr(alone, each, off)
    if attribute in ("top_n_grams", "dup_n_grams"):
        limits = [limit for limit in getattr(whole, attribute) if f"_{limit[0]}_" in reason]
        assert len(limits) == 1, reason
        setattr(alone, attribute, limits)
    return alone


def find_reasons(whole, rules, text):
    """All reasons of one filter; the first is what the whole filter says."""
    failed = []
    for reason, attribute, _ in rules:
        found = leave_one(whole, rules, reason, attribute).filter(Document(text=text, id=""))
        assert found is True or found[1] in [each for each, of, _ in rules if of == attribute], found
        if found is not True and found[1] == reason:
            failed.append(reason)
    verdict = whole.filter(Document(text=text, id=""))
    assert verdict == ((False, failed[0]) if failed else True), (verdict, failed)
    return failed


def hash_lines(whole, text):
    """What C4's filter leaves, as a hash; None where a line drops the page."""
    alone, document = copy.copy(whole), Document(text=text, id="")
    alone.min_num_sentences = -1
    if alone.filter(document) is not True:
        return None
    return hashlib.sha256(document.text.encode()).hexdigest()[:16]


def judge(language, text):
    chains = CHAINS[language]
    failed = {
        name: [reason for whole, rules in chain for reason in find_reasons(whole, rules, text)]
        for name, chain in chains.items()
    }
    lines = {name: hash_lines(chain[0][0], text) for name, chain in chains.items() if name.startswith("c4@")}
    return {"failed": failed, "c4_lines": lines}


if __name__ == "__main__":
    print(json.dumps({name: version(name) for name in PACKAGES}))
    for line in sys.stdin:
        row = json.loads(line)
        print(json.dumps(judge(row["language"], row["text"])))

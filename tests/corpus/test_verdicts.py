"""Verdicts on a public sample: ours are those of datatrove, but for the listed differences.

`verdicts/sample.jsonl.gz` holds the texts and what datatrove's filters say, each rule for itself; see
`verdicts/README.md`. The lists are exact: a difference that is new or gone fails.
"""

import gzip
import hashlib
import json
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from benchmarks.peers import PACKAGES
from pipelines.corpus.c4_lines import remove_lines
from pipelines.corpus.presets import PRESETS, choose_limits
from pipelines.corpus.signals.table import compute_signals

SAMPLE = Path(__file__).parent / "verdicts" / "sample.jsonl.gz"
RULES = {
    "dup_line_frac": "max_duplicate_line_fraction",
    "dup_para_frac": "max_duplicate_paragraph_fraction",
    "dup_line_char_frac": "max_duplicate_line_char_fraction",
    "dup_para_char_frac": "max_duplicate_paragraph_char_fraction",
    **{f"top_{n}_gram": f"max_top_{n}_gram_token_fraction" for n in (2, 3, 4)},
    **{f"duplicated_{n}_n_grams": f"max_duplicate_{n}_gram_token_fraction" for n in range(5, 11)},
    "gopher_short_doc": "min_num_word_tokens",
    "gopher_long_doc": "max_num_word_tokens",
    "gopher_below_avg_threshold": "min_mean_token_length",
    "gopher_above_avg_threshold": "max_mean_token_length",
    "gopher_too_many_hashes": "max_hash_token_ratio",
    "gopher_too_many_ellipsis": "max_ellipsis_token_ratio",
    "gopher_too_many_bullets": "max_bullet_all_line_fraction",
    "gopher_too_many_end_ellipsis": "max_ellipsis_all_line_fraction",
    "gopher_below_alpha_threshold": "min_alpha_token_fraction",
    "gopher_enough_stop_words": "min_num_exact_stop_words",
    "line_punct_ratio": "min_stop_line_fraction",
    "short_line_ratio": "max_short_line_fraction",
    "char_dup_ratio": "max_duplicate_line_char_fraction_of_lines",
    "list_ratio": "max_line_break_token_ratio",
}
"""datatrove's reasons -> rules of our presets, where these have one name."""
C4_RULES = {
    "lorem_ipsum": "max_c4_{}_lorem_ipsum_lines",
    "curly_bracket": "max_c4_{}_brace_lines",
    "too_few_sentences": "min_c4_{}_num_sentences",
}
CHINESE = "fineweb2@cmn_Hani"
# By cause: texts, and the rules that only we (+) or only datatrove (-) says they break. All causes but
# the last are tokens: spaCy's (English) or jieba's (Chinese) there, `signals/words.py` here.
DIFFERENCES = {
    # spaCy cuts a mark from a word, or inside one, only where its rules say so: /etc, -x, ./bin, 2×N, RAID-1
    # and recode(1 are one token. Here a mark with a word on one side only, and most within words, are tokens.
    "marks": """
        en-091 +min_alpha_token_fraction
        en-098 +min_alpha_token_fraction
        en-099 +min_alpha_token_fraction
        en-118 -min_num_word_tokens
        en-128 -min_c4_datatrove_num_sentences
        en-133 +min_alpha_token_fraction
        en-149 +min_alpha_token_fraction
        en-150 +max_duplicate_8_gram_token_fraction
        en-150 -max_duplicate_7_gram_token_fraction
        en-152 +max_duplicate_10_gram_token_fraction
        en-152 +max_duplicate_9_gram_token_fraction
        en-156 +max_duplicate_9_gram_token_fraction
        en-169 +min_alpha_token_fraction
        en-171 -min_c4_datatrove_num_sentences
        en-186 +min_alpha_token_fraction
        en-405 +min_mean_token_length
        en-410 -max_mean_token_length
    """,
    # -- is one token here. spaCy leaves it on a word that it touches on one side: lies--
    "dashes": """
        en-318 +max_duplicate_5_gram_token_fraction
        en-330 +max_duplicate_6_gram_token_fraction
    """,
    # spaCy cuts a unit from its number: 160|km/h.
    "units": """
        en-387 -min_alpha_token_fraction
    """,
    # jieba cuts Latin words at each mark (v8.4|.|0, table|_|name, #|21), and leaves % on its number and a row
    # of other marks whole. Here they are cut as in English.
    "marks in Chinese": """
        zh-034 -min_alpha_token_fraction
        zh-037 +max_duplicate_6_gram_token_fraction
        zh-037 +max_duplicate_8_gram_token_fraction
        zh-037 -max_duplicate_10_gram_token_fraction
        zh-037 -max_duplicate_7_gram_token_fraction
        zh-043 +max_duplicate_10_gram_token_fraction
        zh-043 +max_duplicate_5_gram_token_fraction
        zh-043 +max_duplicate_6_gram_token_fraction
        zh-043 +max_duplicate_7_gram_token_fraction
        zh-043 +max_duplicate_8_gram_token_fraction
        zh-043 +max_duplicate_9_gram_token_fraction
        zh-044 +max_mean_token_length
        zh-045 -min_alpha_token_fraction
        zh-084 -max_duplicate_5_gram_token_fraction
        zh-143 -min_alpha_token_fraction
        zh-144 +max_hash_token_ratio
        zh-144 -min_alpha_token_fraction
        zh-147 +max_hash_token_ratio
        zh-169 +min_alpha_token_fraction
    """,
    # jieba's dictionary has words of letters and ideographs (O型). Here they are always cut from each other.
    "words of two scripts": """
        zh-115 -max_duplicate_5_gram_token_fraction
    """,
    # No word at all: the mean length is 0 here, and not a number in datatrove, which no limit drops.
    "no words": """
        zh-175 +min_mean_token_length
    """,
}
# By preset: texts, of these dropped by datatrove, and of all those with another verdict here.
VERDICTS = {
    "gopher_repetition@datatrove": (571, 133, 2),
    "gopher_quality@datatrove": (571, 171, 9),
    "c4@datatrove": (571, 332, 2),
    "c4@fineweb": (571, 59, 0),
    "fineweb": (571, 267, 0),
    "fineweb2@cmn_Hani": (176, 138, 3),
}
# By variant of C4: pages, and of these changed.
LINES = {"datatrove": (562, 454), "fineweb": (543, 226)}
# Rules with fewer than two texts that break them, by datatrove.
FEW = {
    ("gopher_quality@datatrove", "max_num_word_tokens"): 1,  # 100,001 words
    (CHINESE, "max_num_word_tokens"): 0,  # the same code as in English
    (CHINESE, "min_mean_token_length"): 0,  # a word has one character at least
}


@cache
def read_sample():
    versions, *rows = map(json.loads, gzip.decompress(SAMPLE.read_bytes()).decode().splitlines())
    return versions, rows


def name_rule(preset, reason):
    if preset == CHINESE and reason == "gopher_enough_stop_words":
        return "min_num_chinese_stop_words"
    return RULES.get(reason) or C4_RULES[reason].format(preset.partition("@")[2])


@cache
def compare(preset):
    """(id, rules that we say the text breaks, rules that datatrove says it breaks) of each text."""
    rows = [row for row in read_sample()[1] if preset in row["failed"]]
    limits = choose_limits([preset], {})
    signals = compute_signals([row["text"] for row in rows], [limit.signal for limit in limits])
    found = []
    for row, values in zip(rows, signals, strict=True):
        ours = {
            limit.rule.partition("/")[2]
            for limit, value in zip(limits, values, strict=True)
            if (value < limit.threshold if limit.is_minimum else value > limit.threshold)
        }
        found.append((row["id"], ours, {name_rule(preset, reason) for reason in row["failed"][preset]}))
    return found


def test_the_sample_is_of_the_peer_that_is_measured():
    pins = dict(package.split("==") for package in PACKAGES["datatrove"])
    assert read_sample()[0] == {name.partition("[")[0]: version for name, version in pins.items()}


def test_texts_break_the_rules_that_datatrove_names_but_for_the_listed():
    listed = [line.strip() for lines in DIFFERENCES.values() for line in lines.strip().splitlines()]
    found = []
    for preset in VERDICTS:
        for name, ours, theirs in compare(preset):
            found += [f"{name} +{rule}" for rule in ours - theirs]
            found += [f"{name} -{rule}" for rule in theirs - ours]
    assert sorted(found) == sorted(listed)


@pytest.mark.parametrize("preset", VERDICTS)
def test_verdicts_are_those_of_datatrove_but_for_few(preset):
    verdicts = [(bool(ours), bool(theirs)) for _, ours, theirs in compare(preset)]
    num_dropped, num_different = sum(theirs for _, theirs in verdicts), sum(a != b for a, b in verdicts)
    assert (len(verdicts), num_dropped, num_different) == VERDICTS[preset]


@pytest.mark.parametrize("preset", VERDICTS)
def test_the_sample_has_both_outcomes_of_each_rule(preset):
    found = compare(preset)
    broken = Counter(rule for _, _, theirs in found for rule in theirs)
    rules = [rule for rule, _ in PRESETS[preset].limits]
    assert broken.keys() <= set(rules)
    for rule in rules:
        assert broken[rule] < len(found) - 2, rule
        assert broken[rule] >= 2 or broken[rule] == FEW[preset, rule], rule


@pytest.mark.parametrize("variant", ["datatrove", "fineweb"])
def test_lines_that_stay_are_those_of_datatrove(variant):
    num_pages, num_changed = 0, 0
    for row in read_sample()[1]:
        expected = row["c4_lines"].get(f"c4@{variant}")
        if expected is None:  # a line drops the page, or the text is Chinese
            continue
        text = remove_lines(row["text"], variant)[0].strip()
        assert hashlib.sha256(text.encode()).hexdigest()[:16] == expected, row["id"]
        num_pages, num_changed = num_pages + 1, num_changed + (text != row["text"])
    assert (num_pages, num_changed) == LINES[variant]

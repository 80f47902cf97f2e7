"""Published rules: for every limit one text just inside and one just outside, worked out by hand."""

import pytest

from pipelines.corpus.presets import PRESETS, choose_limits
from pipelines.corpus.rules import Rules, leave_out_unset
from pipelines.corpus.signals.table import compute_signals

LETTERS = "abcdefghij"


def lines(*texts):
    return "\n".join(texts)


def numbered(count):
    return [f"line {number}" for number in range(count)]


def copied(num_lines, num_copies, separator="\n"):
    """That many lines, of which the last ones are copies of the first ones."""
    different = numbered(num_lines - num_copies)
    return separator.join([*different, *different[:num_copies]])


def twice(n, num_chars):
    """The n-gram "a b c ..." twice, then one long word, so that the text has `num_chars` characters.

    With spaces the n-gram has 2n - 1 characters, without spaces n.
    """
    gram = " ".join(LETTERS[:n])
    return f"{gram} {gram} ".ljust(num_chars, "x")


def with_stops(num_stops, num_lines):
    return lines(*["line."] * num_stops, *["line"] * (num_lines - num_stops))


def with_breaks(num_breaks, num_tokens):
    return "\n".join(["a"] * num_breaks + [" ".join(["a"] * (num_tokens - num_breaks))])


REPETITION = {
    "max_duplicate_line_fraction": (copied(10, 3), copied(13, 4)),  # 0.3, 0.308
    "max_duplicate_paragraph_fraction": (copied(10, 3, "\n\n"), copied(13, 4, "\n\n")),
    "max_duplicate_line_char_fraction": (lines("aaaa", "b" * 10, "aaaa"), lines("aaaa", "b" * 9, "aaaa")),
    "max_duplicate_paragraph_char_fraction": (
        lines("aaaa", "", "b" * 8, "", "aaaa"),  # 4 of 20 characters, 4 of 19
        lines("aaaa", "", "b" * 7, "", "aaaa"),
    ),
}
# n -> characters of a text just inside and just outside: top n-grams count 2 (2n - 1) of them, others n.
GOPHER_CHARS = {2: (30, 29), 3: (56, 55), 4: (88, 87), 5: (34, 33), 6: (43, 42), 7: (54, 53), 8: (67, 66)}
GOPHER_CHARS |= {9: (82, 81), 10: (100, 99)}
CHINESE_CHARS = {2: (24, 23), 3: (50, 49), 4: (82, 81), 5: (26, 25), 6: (33, 32), 7: (42, 41), 8: (52, 51)}
CHINESE_CHARS |= {9: (65, 64), 10: (79, 78)}


def grams(unit, chars):
    kinds = {n: "top" if n <= 4 else "duplicate" for n in chars}
    return {
        f"max_{kinds[n]}_{n}_gram_{unit}_fraction": tuple(twice(n, size) for size in sizes)
        for n, sizes in chars.items()
    }


QUALITY = {
    "min_mean_word_length": ("abc abcd ab", "abc ab abc"),  # 3, 2.67
    "max_mean_word_length": ("a" * 10, f"{'a' * 10} {'a' * 11}"),
    "max_hash_word_ratio": ("#a b c d e f g h i j", "#a b c d e f g h i"),  # 1 of 10, 1 of 9
    "max_ellipsis_word_ratio": ("a... b c d e f g h i j", "a… b c d e f g h i"),
    "max_bullet_line_fraction": (lines(*["• a"] * 9, "b"), lines(*["* a"] * 10, "b")),
    "max_ellipsis_line_fraction": (
        lines(*["a..."] * 3, *["b"] * 7),
        lines(*["a…"] * 4, "", "", *["b"] * 9),  # 4 of 13: blank lines are not counted
    ),
    "min_alpha_word_fraction": ("a a a a a a a a 1 1", "a a a a a a a 1 1"),  # 0.8, 0.778
}
TOKEN_QUALITY = {
    "min_num_word_tokens": ("word, " * 50, "word, " * 49),
    "max_num_word_tokens": ("w " * 100_000 + ".", "w " * 100_001),
    "max_hash_token_ratio": ("# b c d e f g h i j", "# b c d e f g h i"),
    "max_ellipsis_token_ratio": ("... b c d e f g h i j", "… b c d e f g h i"),
    "max_bullet_all_line_fraction": (lines(*["- a"] * 5, "", *["- a"] * 4), lines(*["• a"] * 10, "b")),
    "max_ellipsis_all_line_fraction": (lines(*["a..."] * 3, "", *["b"] * 6), lines(*["a…"] * 4, *["b"] * 9)),
}
SENTENCE = "One two three four five."
CASES = {
    "gopher_repetition@paper": {**REPETITION, **grams("word", GOPHER_CHARS)},
    "gopher_repetition@datatrove": {**REPETITION, **grams("token", GOPHER_CHARS)},
    "gopher_quality@paper": {
        "min_num_words": ("word, " * 50, "word - " * 24 + "word"),  # 50, 49: a mark alone is a word
        "max_num_words": ("w " * 100_000, "w " * 100_001),
        **QUALITY,
        "min_num_stop_words": ("The cat and", "the THE cat The"),  # 2 different ones, 1
    },
    "gopher_quality@datatrove": {
        **TOKEN_QUALITY,
        "min_mean_token_length": ("abc , , abcd ab", "abc , ab abc"),
        "max_mean_token_length": (f"{'a' * 10} .", f"{'a' * 10} . {'a' * 11}"),
        "min_alpha_token_fraction": ("a a a a a a a a 1 .", "a a a a a a a 1 ."),
        "min_num_exact_stop_words": ("the cat and", "the The And cat"),
    },
    "c4@paper": {
        "max_c4_paper_lorem_ipsum_lines": ("Lorem dolor ipsum", "Lorem IPSUM dolor"),
        "max_c4_paper_brace_lines": ("a } b", "a { b"),
        # a line of 4 words and a line that ends in a comma do not count
        "min_c4_paper_num_sentences": (
            lines(" ".join([SENTENCE] * 2), SENTENCE),
            lines(" ".join([SENTENCE] * 2), "One two three four.", "One two three four five,"),
        ),
    },
    "c4@datatrove": {
        "max_c4_datatrove_lorem_ipsum_lines": ("Here is lorem ipsum", "Here is lorem ipsum."),
        "max_c4_datatrove_brace_lines": ("Write javascript { here.", "Write script { here."),
        "min_c4_datatrove_num_sentences": (
            lines(*["One two three."] * 5),
            lines(*["One two three."] * 4, "One two.", "One two three"),
        ),
    },
    "c4@fineweb": {
        "max_c4_fineweb_lorem_ipsum_lines": ("lorem ipsum", "a lorem ipsum"),
        "max_c4_fineweb_brace_lines": ("a {", "a b {"),
        "min_c4_fineweb_num_sentences": (
            lines(*["One two three"] * 5),
            lines(*["One two three"] * 4, "We use cookies.", "One javascript three."),
        ),
    },
    "fineweb": {
        "min_stop_line_fraction": (with_stops(3, 25), with_stops(3, 26)),  # 0.12, 0.115
        "max_short_line_fraction": (
            lines(*["a" * 30] * 67, *["a" * 31] * 33),
            lines(*["a" * 30] * 68, *["a" * 31] * 32),
        ),
        "max_duplicate_line_char_fraction_of_lines": (lines("a", "a", "x" * 98), lines("a", "a", "x" * 97)),
        "max_line_break_token_ratio": (with_breaks(3, 10), with_breaks(4, 13)),  # 0.3, 0.308
    },
    "fineweb2@cmn_Hani": {
        "max_duplicate_line_fraction": (copied(7, 2), copied(17, 5)),  # 0.286, 0.294
        **grams("token", CHINESE_CHARS),
        "min_stop_line_fraction": (
            lines(*["完。"] * 11, *["完"] * 92),  # 0.1068
            lines(*["完。"] * 10, *["完"] * 85),  # 0.1053
        ),
        "max_duplicate_line_char_fraction_of_lines": (lines("好", "好", "x" * 8), lines("好", "好", "x" * 7)),
        "max_line_break_token_ratio": (with_breaks(6, 34), with_breaks(5, 28)),  # 0.176, 0.179
        **TOKEN_QUALITY,
        "min_mean_token_length": ("好", "，"),  # 1, and no word at all
        "max_mean_token_length": ("银行卡 abcdefg", "银行卡 abcdefgh"),  # 5, 5.5
        "min_alpha_token_fraction": ("好 好 好 ，", "好 好 好 好 好 好 好 好 ， ， ，"),  # 0.75, 0.727
        "min_num_chinese_stop_words": ("的 在 好", "的 的 好"),
    },
}


def test_every_limit_has_its_two_cases():
    limits = {name: sorted(rule for rule, _ in preset.limits) for name, preset in PRESETS.items()}
    assert {name: sorted(cases) for name, cases in CASES.items()} == limits


@pytest.mark.parametrize("preset", CASES)
def test_limits_divide_the_texts(preset):
    limits = {limit.rule.partition("/")[2]: limit for limit in choose_limits([preset], {})}
    for name, (inside, outside) in CASES[preset].items():
        limit = limits[name]
        kept, dropped = compute_signals([inside.strip(), outside.strip()], [limit.signal])[:, 0]
        if limit.is_minimum:
            assert kept >= limit.threshold > dropped, (name, kept, dropped)
        else:
            assert kept <= limit.threshold < dropped, (name, kept, dropped)


# As published, rule by rule: Gopher's table A1 and appendix A.1; T5 and JMLR for C4; FineWeb's appendix;
# configs/cmn_Hani.yml of FineWeb-2. Kept apart from the product's tables, so that a typo there fails.
TABLE_A1 = """
max_duplicate_line_fraction 0.30
max_duplicate_paragraph_fraction 0.30
max_duplicate_line_char_fraction 0.20
max_duplicate_paragraph_char_fraction 0.20
max_top_2_gram_word_fraction 0.20
max_top_3_gram_word_fraction 0.18
max_top_4_gram_word_fraction 0.16
max_duplicate_5_gram_word_fraction 0.15
max_duplicate_6_gram_word_fraction 0.14
max_duplicate_7_gram_word_fraction 0.13
max_duplicate_8_gram_word_fraction 0.12
max_duplicate_9_gram_word_fraction 0.11
max_duplicate_10_gram_word_fraction 0.10
"""
PUBLISHED = {
    "gopher_repetition@paper": TABLE_A1,
    "gopher_repetition@datatrove": TABLE_A1.replace("_word_", "_token_"),
    "gopher_quality@paper": """
min_num_words 50
max_num_words 100000
min_mean_word_length 3
max_mean_word_length 10
max_hash_word_ratio 0.1
max_ellipsis_word_ratio 0.1
max_bullet_line_fraction 0.9
max_ellipsis_line_fraction 0.3
min_alpha_word_fraction 0.8
min_num_stop_words 2
""",
    "gopher_quality@datatrove": """
min_num_word_tokens 50
max_num_word_tokens 100000
min_mean_token_length 3
max_mean_token_length 10
max_hash_token_ratio 0.1
max_ellipsis_token_ratio 0.1
max_bullet_all_line_fraction 0.9
max_ellipsis_all_line_fraction 0.3
min_alpha_token_fraction 0.8
min_num_exact_stop_words 2
""",
    "c4@paper": """
max_c4_paper_lorem_ipsum_lines 0
max_c4_paper_brace_lines 0
min_c4_paper_num_sentences 3
""",
    "c4@datatrove": """
max_c4_datatrove_lorem_ipsum_lines 0
max_c4_datatrove_brace_lines 0
min_c4_datatrove_num_sentences 5
""",
    "c4@fineweb": """
max_c4_fineweb_lorem_ipsum_lines 0
max_c4_fineweb_brace_lines 0
min_c4_fineweb_num_sentences 5
""",
    "fineweb": """
min_stop_line_fraction 0.12
max_short_line_fraction 0.67
max_duplicate_line_char_fraction_of_lines 0.01
max_line_break_token_ratio 0.3
""",
    "fineweb2@cmn_Hani": """
max_duplicate_line_fraction 0.287
max_top_2_gram_token_fraction 0.256
max_top_3_gram_token_fraction 0.201
max_top_4_gram_token_fraction 0.171
max_duplicate_5_gram_token_fraction 0.198
max_duplicate_6_gram_token_fraction 0.182
max_duplicate_7_gram_token_fraction 0.167
max_duplicate_8_gram_token_fraction 0.154
max_duplicate_9_gram_token_fraction 0.14
max_duplicate_10_gram_token_fraction 0.127
min_stop_line_fraction 0.106
max_duplicate_line_char_fraction_of_lines 0.1
max_line_break_token_ratio 0.178
min_num_word_tokens 50
max_num_word_tokens 100000
min_mean_token_length 1
max_mean_token_length 5
max_hash_token_ratio 0.1
max_ellipsis_token_ratio 0.1
max_bullet_all_line_fraction 0.9
max_ellipsis_all_line_fraction 0.3
min_alpha_token_fraction 0.735
min_num_chinese_stop_words 2
""",
}


def test_all_limits_are_those_published():
    expected = {
        name: [(rule, float(number)) for rule, number in map(str.split, table.strip().splitlines())]
        for name, table in PUBLISHED.items()
    }
    found = {name: [(rule, float(number)) for rule, number in each.limits] for name, each in PRESETS.items()}
    assert found == expected
    assert sum(map(len, expected.values())) == 13 + 13 + 10 + 10 + 3 + 3 + 3 + 4 + 23


def test_thresholds_replace_and_switch_off():
    changed = {"fineweb/max_short_line_fraction": 0.5, "fineweb/min_stop_line_fraction": None}
    rules = Rules(presets=("fineweb",), thresholds=changed)
    assert [(limit.signal, limit.is_minimum, limit.threshold) for limit in rules.limits] == [
        ("short_line_fraction", False, 0.5),
        ("duplicate_line_char_fraction_of_lines", False, 0.01),
        ("line_break_token_ratio", False, 0.3),
    ]
    # A rule that is off keeps its signal, so that --what-if can switch it on again.
    assert rules.signals[0] == "stop_line_fraction"
    assert rules.change({"fineweb/min_stop_line_fraction": 0.2}).limits[0].threshold == 0.2


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"presets": ("gopher",)}, r"presets must be among gopher_repetition@paper, .*; got 'gopher'"),
        (
            {"presets": ("fineweb",), "thresholds": {"fineweb/max_short_lines": 1}},
            r"such as fineweb/max_short_line_fraction.*; got 'fineweb/max_short_lines'",
        ),
        ({"thresholds": {"fineweb/x": 1}}, r"but presets is empty; got 'fineweb/x'"),
        (
            {"presets": ("fineweb",), "thresholds": {"fineweb/min_stop_line_fraction": float("nan")}},
            r"must be a finite number or null, got nan",
        ),
    ],
)
def test_a_wrong_preset_or_rule_is_named(knobs, message):
    with pytest.raises(ValueError, match=message):
        Rules(**knobs)


def test_rules_without_presets_keep_their_fingerprint():
    rules = {"min_chars": 1, "drop_duplicates_from": ["train"]}
    before = {"rules": rules, "sources": [{"name": "s", "format": "text", "options": {}}]}
    off = {"mojibake": False, "control_characters": False, "white_space": False, "c4_lines": None, "pii": []}
    unset = {"languages": [], "min_language_score": 0.65, "presets": [], "thresholds": {}}
    unset |= {"word_lists": []}
    source = {"name": "s", "format": "text", "options": {}, "cleaning": off, "ignored_turn_fields": []}
    assert leave_out_unset({"rules": {**rules, **unset}, "sources": [source]}) == before
    changes = [({"presets": ["fineweb"]}, {}), ({"languages": ["en"]}, {}), ({}, {"pii": ["ip"]})]
    changes.append(({}, {"c4_lines": "paper"}))
    for changed, cleaning in changes:
        rules_now, source_now = {**rules, **unset, **changed}, {**source, "cleaning": {**off, **cleaning}}
        assert leave_out_unset({"rules": rules_now, "sources": [source_now]}) != before

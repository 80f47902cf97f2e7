"""Line removal by C4's rules: for each limit a line just inside and one just outside, worked out by hand."""

import random
import re
import time
import tracemalloc

import pytest

from pipelines.corpus.c4_lines import remove_lines
from pipelines.corpus.clean import Cleaner
from pipelines.corpus.cleaning import Cleaning
from pipelines.corpus.decontamination import Decontamination
from pipelines.corpus.presets import PRESETS, choose_limits
from pipelines.corpus.signals.names import C4_VARIANTS
from pipelines.corpus.signals.table import compute_signals
from tests.corpus.reading import make_source
from tests.corpus.signals_twin import CITATION, POLICIES

BOTH = ("paper", "datatrove")
PHRASES = ["terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"]
# (variants, line that stays, line that goes)
LIMITS = [
    (["paper"], "One two three four five.", "One two three four."),
    (["datatrove"], "One two three.", "One two."),
    (["fineweb"], "One two three", "One two"),
    (C4_VARIANTS, f"One two three four {'a' * 999}.", f"One two three four {'a' * 1000}."),
    (BOTH, "Is it one of the five?", "Is it one of the five"),
    (BOTH, "It is one of the five!", "It is one of the five:"),
    (BOTH, 'He said "one of the five"', "He said (one of the five)"),
    (BOTH, "It is one of the five..", "It is one of the five..."),
    (BOTH, "It is one of the five. . .", "It is one of the five…"),
    (["paper"], "“It is one of the five”", "‘It is one of the five’"),
    (["paper"], '"It is one of the five"', "'It is one of the five'"),
    (["datatrove"], "'It is one of the five'", "“It is one of the five”"),
    (["fineweb"], "It is one of the five...", "Please enable JAVASCRIPT to read this..."),
    (BOTH, "This script of Java is one.", "This JavaScript is one of five."),
    *(
        (C4_VARIANTS, f"Here are the {one[:-1]}, all of it.", f"Here are the {one}, all of it.")
        for one in PHRASES
    ),
    (C4_VARIANTS, "Here is our privacy  policy for you.", "Here is our Privacy Policy for you."),
    (["paper"], "[1] One two three four five.", "[1] One two three four."),  # a citation is no word
    (["datatrove"], "[1] One two.", "[1]One two."),  # a word of its own
    (BOTH, "One two three four five.[1][22]", "One two three four five. [1]"),  # a space is left: no end mark
    (BOTH, "One two three four five.[]", "One two three four five.[a]"),
    (BOTH, "One two three four five.[edit]", "One two three four five.[Edit]"),
    (BOTH, "One two three four five.[citation needed]", "One two three four five.[citation]"),
]
# Words of the dictionary: 今天|去|银行|了|吗？ (five), 他|今天|去|银行。 (four), 他|去|银行。 (three)
CHINESE = [
    (["paper"], "今天去银行了吗？", "他今天去银行。"),
    (["datatrove"], "他去银行。", "去银行。"),
    (["fineweb"], "他去银行", "去银行"),
    (BOTH, "今天去银行了吗！", "今天去银行了吗；"),
    (BOTH, "今天去银行了吗｡", "今天去银行了吗…"),
    (BOTH, "今天去银行了吗。。", "今天去银行了吗。。。"),
    (BOTH, "今天去銀行了嗎」", "（今天去银行了吗。）"),
    (BOTH, "他说：“今天没有课。”", "他说：“今天没有课”，"),
    (BOTH, "他说“今天没有课”", "他说‘今天没有课’"),
    (["datatrove"], "他说：“no课”", "他说：“no”"),  # behind a letter it may be English
    (["paper"], "我们今天去银行说：“yes no”", "我们今天去银行说：“yes no”…"),
    (C4_VARIANTS, f"我的银行卡{'a' * 1000}还没有到。", f"我的银行卡{'a' * 1001}还没有到。"),
    (C4_VARIANTS, "我们的网站今天使用脚本。", "我们的网站今天使用JavaScript。"),
    (BOTH, "我的银行卡还没有到。", "カタカナのテキストです。"),  # kana are not cut: one word
]


@pytest.mark.parametrize(("variants", "stays", "goes"), [*LIMITS, *CHINESE])
def test_limits_divide_the_lines(variants, stays, goes):
    for variant in variants:
        text, counts = remove_lines(f"{goes}\n{stays}\n{goes}", variant)
        assert (text, counts["c4_lines"]) == (re.sub(CITATION, "", stays).strip(), 2), variant


def test_all_published_phrases_are_looked_for():
    assert sorted(PHRASES) == sorted(POLICIES)


def test_a_long_chinese_line_without_spaces_stays():
    line = "我的银行卡还没有到" * 300 + "。"
    for variant in C4_VARIANTS:
        assert remove_lines(line, variant) == (line, {})


def test_blank_lines_and_outer_white_space_go_uncounted():
    text = "  One two three four five.\n\n\t\nSix seven eight nine ten.\u3000\n\u3000今天去银行了吗？"
    for variant in C4_VARIANTS:
        kept, counts = remove_lines(text, variant)
        assert kept == "One two three four five.\nSix seven eight nine ten.\n今天去银行了吗？"
        assert counts == {}


def test_lines_that_drop_the_page_stay_for_the_rule():
    lorem, brace, script = "Lorem ipsum dolor sit amet.", "if (a) { return b", "Turn on javascript { in it."
    text = "\n".join([lorem, brace, script, "Menu", "One two three four five."])
    assert remove_lines(text, "paper") == (text.replace("Menu\n", ""), {"c4_lines": 1})
    # datatrove looks only at lines with words and an end, and for a brace at those without javascript
    assert remove_lines(text, "datatrove") == (f"{lorem}\nOne two three four five.", {"c4_lines": 3})
    assert remove_lines(text, "fineweb")[0] == f"{lorem}\n{brace}\nOne two three four five."


PIECES = [
    *(
        "One",
        "two",
        "three",
        "four",
        "five",
        "menu",
        "don't",
        "we",
        "。",
        "，",
        "我的",
        "银行卡",
        "今天",
        "去了",
    ),
    *(
        ".",
        ".",
        "?",
        "!",
        '"',
        "”",
        "」",
        "...",
        "。",
        "。。。",
        "javascript",
        "privacy policy",
        "lorem ipsum",
        "{",
    ),
    *("a" * 1001, "\u3000", "カナ"),
]
CITATIONS = ["[1]", "[22]", "[edit]", "[x]"]


def make_pages(num_pages, pieces):
    """Random pages of lines with few pieces; most lines end in a mark, so that some stay."""
    draw = random.Random(7)
    pages = []
    for _ in range(num_pages):
        lines = []
        for _ in range(draw.randint(1, 12)):
            drawn = draw.choices(pieces[:17], k=draw.randint(0, 9)) + draw.choices(pieces, k=2)
            lines.append("".join(each + draw.choice(["", " ", " "]) for each in drawn))
        pages.append("\n".join(lines).strip())
    return pages


@pytest.mark.parametrize("variant", C4_VARIANTS)
def test_the_preset_decides_as_on_the_whole_page(variant):
    limits = choose_limits([f"c4@{variant}"], {})
    names = [limit.signal for limit in limits]
    # Where a citation is a word of its line, a line may have too few words without it.
    whole = make_pages(400, [*PIECES, *(CITATIONS if variant == "paper" else ())])
    cleaned = [remove_lines(page, variant)[0].strip() for page in whole]
    before, after = compute_signals(whole, names).tolist(), compute_signals(cleaned, names).tolist()
    assert before == after
    assert len(PRESETS[f"c4@{variant}"].limits) == 3
    assert all(len(set(column)) > 1 for column in zip(*before, strict=True))  # the texts reach all three
    assert sum(page != text for page, text in zip(whole, cleaned, strict=True)) > 300


@pytest.mark.parametrize("variant", C4_VARIANTS)
def test_a_citation_behind_a_stop_is_no_sentence(variant):
    page = "\n".join(f"The city number {number} is old.[{number}]" for number in range(3))
    name = f"c4_{variant}_num_sentences"
    cleaned, counts = remove_lines(page, variant)
    assert counts == {"c4_citations": 3}
    assert compute_signals([page, cleaned], [name]).tolist() == [[3], [3]]


def publish(text, variant):
    """The documented reading of both public codes, for English: the rules in their order, line by line."""
    few, marks = {"paper": (5, '.?!"”'), "datatrove": (3, ".?!\"'"), "fineweb": (3, "")}[variant]
    kept = []
    for line in map(str.strip, text.split("\n")):
        bare = re.sub(CITATION, "", line)
        words = bare.split() if variant == "paper" else line.split()
        reasons = [
            max(map(len, line.split()), default=0) > 1000,
            marks != "" and (bare[-1:] == "" or bare[-1] not in marks or bare[-3:] == "..."),
            len(words) < few,
            "javascript" in bare.lower(),
            any(phrase in bare.lower() for phrase in POLICIES),
        ]
        if not any(reasons):
            kept.append(bare.strip())
    return "\n".join(kept)


@pytest.mark.parametrize("variant", C4_VARIANTS)
def test_lines_of_english_pages_are_the_published_ones(variant):
    english = [piece for piece in PIECES if piece.isascii() and piece not in ("lorem ipsum", "{")]
    pages = make_pages(400, [*english, "”", "[1]", "[edit]", "[x]", "Use Cookies", "'"])
    published = [publish(page, variant) for page in pages]
    assert [remove_lines(page, variant)[0] for page in pages] == published
    assert len(set(published)) > 50


def test_the_step_is_counted_before_personal_data():
    cleaner = Cleaner(Cleaning(white_space=True, c4_lines="datatrove", pii=("email",)))
    text = "Home | About | a@b.org\n\nWrite to\xa0c@d.org now.[1][2]\nIt is what it is. [3]\n12 comments"
    assert cleaner.clean(text) == "Write to <EMAIL> now."
    assert cleaner.take_counts() == {"white_space": 1, "c4_lines": 3, "c4_citations": 2, "email": 1}
    assert cleaner.clean("Menu\nLogin") == ""
    assert cleaner.take_counts() == {"c4_lines": 2}


def test_places_where_the_step_would_do_harm_are_refused():
    with pytest.raises(
        ValueError, match=r"c4_lines must be one of paper, datatrove, fineweb or null, got c4"
    ):
        Cleaning(c4_lines="c4")
    lines = Cleaning(c4_lines="paper")
    with pytest.raises(
        ValueError, match=r"source 's': cleaning.c4_lines is for web pages.* parts and messages"
    ):
        make_source(name="s", format="jsonl", fields={}, messages="turns", cleaning=lines)
    questions = make_source(name="quiz", format="jsonl", fields={"text": "q"}, cleaning=lines)
    with pytest.raises(ValueError, match=r"removes short questions from quiz, .*remove c4_lines"):
        Decontamination(evaluation_sets=(questions,))


@pytest.mark.parametrize(
    "text",
    [
        "a" * 400_000,
        "a " * 200_000,
        ("a" * 1000 + " ") * 400,
        "[1" * 200_000,
        "好" * 400_000,
        "好 " * 200_000,
        "好 \n" * 100_000,
        "我们今天去公园散步。\n" * 20_000,
    ],
)
def test_lines_take_linear_time(text):
    start = time.process_time()
    for variant in C4_VARIANTS:
        remove_lines(f"{text}.", variant)
    assert time.process_time() - start < 3  # a quadratic pattern takes minutes


def test_white_space_inside_a_line_takes_no_memory():
    line = f"我{' ' * 2_000_000}银行。"
    tracemalloc.start()
    assert remove_lines(line, "paper") == ("", {"c4_lines": 1})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40_000_000  # the text itself has 4 MB, arrays of all its characters 300

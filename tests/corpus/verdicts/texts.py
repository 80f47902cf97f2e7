"""Texts of the sample: natural ones, and for each rule texts made of natural ones that stand at its limit.

An edit makes a text of a natural one (`Prose`) and a level; with the level grows what its rule looks for. Of
all levels, the last that our rule keeps, the first that it drops and one behind that are taken. So most texts
have a value next to a limit, where one token more or less changes the verdict. Which level that is, our
signals say; the verdicts in the sample are datatrove's.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from pipelines.corpus.presets import Limit, choose_limits
from pipelines.corpus.signals.table import compute_signals

STOP_WORDS = ("have", "with", "that", "be", "and", "of", "to", "the")
CHINESE_STOP_WORDS = "年月日於·為被人中为他與後也而由和有了在是的"
SHORT_LINE, LONG_LINE = 28, 64


@dataclass(frozen=True, slots=True)
class Prose:
    """Natural words, with the marks that follow them, and what stands between two of them."""

    source: str
    words: tuple[str, ...]
    space: str

    def join(self, words) -> str:
        return self.space.join(words)

    def fill(self, words, size: int) -> list[str]:
        """Lines of about `size` characters of English, a third of it for Chinese."""
        lines, line = list[str](), list[str]()
        for word in words:
            line.append(word)
            if len(self.join(line)) >= (size if self.space else size // 3):
                lines.append(self.join(line))
                line = []
        return [*lines, *([self.join(line)] if line else [])]

    @property
    def sentences(self) -> list[str]:
        found = re.split(r"(?<=[.?!])\s+|(?<=[。！？])", self.join(self.words))
        return [each.strip() for each in found if each]


Edit = Callable[[Prose, int], str]


def repeat_lines(prose: Prose, level: int) -> str:
    lines = prose.fill(prose.words, LONG_LINE)
    return "\n".join([*lines, *lines[:level]])


def repeat_one_line(prose: Prose, level: int) -> str:
    lines = prose.fill(prose.words, SHORT_LINE)
    return "\n".join([*lines, *lines[:1] * level])


def repeat_menu(prose: Prose, level: int) -> str:
    """A short line twice; the rest shrinks."""
    menu = "Read more..." if prose.space else "更多内容"
    return "\n".join([menu, *prose.fill(prose.words[: len(prose.words) - level], LONG_LINE), menu])


def repeat_paragraphs(prose: Prose, level: int) -> str:
    lines = prose.fill(prose.words, LONG_LINE)
    return "\n\n".join([*lines, *lines[:level]])


def repeat_one_paragraph(prose: Prose, level: int) -> str:
    lines = prose.fill(prose.words, SHORT_LINE)
    paragraphs = ["\n".join(each) for each in zip(lines[::2], lines[1::2], strict=False)]
    return "\n\n".join([*paragraphs, *paragraphs[:1] * level])


def insert_phrase(english: str, chinese: str) -> Edit:
    """The phrase `level` times, at equal distances."""

    def edit(prose: Prose, level: int) -> str:
        phrase = (english if prose.space else chinese).split()
        words, step = list[str](), max(1, len(prose.words) // (level + 1))
        for place, word in enumerate(prose.words):
            words.append(word)
            if (place + 1) % step == 0 and (place + 1) // step <= level:
                words.extend(phrase)
        return prose.join(words)

    return edit


def copy_grams(n: int) -> Edit:
    """`level` n-grams of the text again, each before a number, so that no longer one is copied."""

    def edit(prose: Prose, level: int) -> str:
        starts = range(0, len(prose.words) - n, n + 1)
        copies = [(*prose.words[first : first + n], str(first + 10_000)) for first in starts[:level]]
        return prose.join([*prose.words, *(word for each in copies for word in each)])

    return edit


def cut(prose: Prose, level: int) -> str:
    return prose.join(prose.words[: max(1, 70 - level)])


def shorten_words(prose: Prose, level: int) -> str:
    return prose.join([*(word[:2] for word in prose.words[:level]), *prose.words[level:]])


def lengthen_words(prose: Prose, level: int) -> str:
    tail = "ification" if prose.space else "ABCDEFGHIJKLMNOP"
    longer = [word.rstrip(".,;:!?\"'") + tail * 2 for word in prose.words[:level]]
    return prose.join([*longer, *prose.words[level:]])


def spread(change: Callable[[str], str]) -> Edit:
    """`level` words, at about equal distances, are changed."""

    def edit(prose: Prose, level: int) -> str:
        num_words = len(prose.words)
        chosen = {place * num_words // level for place in range(level)} if level else set()
        return prose.join([change(word) if i in chosen else word for i, word in enumerate(prose.words)])

    return edit


def change_lines(change: Callable[[str], str], size: int = SHORT_LINE) -> Edit:
    """The first `level` lines are changed."""

    def edit(prose: Prose, level: int) -> str:
        lines = prose.fill(prose.words, size)
        return "\n".join([*map(change, lines[:level]), *lines[level:]])

    return edit


def remove_stop_words(prose: Prose, level: int) -> str:
    stop_words = STOP_WORDS if prose.space else CHINESE_STOP_WORDS
    return prose.join([word for word in prose.words if word.strip(".,;:!?\"'") not in stop_words[:level]])


def remove_sentences(prose: Prose, level: int) -> str:
    """Ten sentences and fewer, two a line; menus, notices and citations between them."""
    kept = prose.sentences[: max(1, 10 - level)]
    lines = [" ".join(kept[first : first + 2]) for first in range(0, len(kept), 2)]
    noise = [
        "Home | About",
        "We use cookies on this site.",
        "It is old.[1]",
        "Please turn on JavaScript now.",
    ]
    return "\n".join(line for each in zip(lines, noise * 2, strict=False) for line in each)


def remove_stops(prose: Prose, level: int) -> str:
    """Lines that end in a stop, but for more and more of them."""
    lines = [line.rstrip(".,;:!?\"'。，；：！？") for line in prose.fill(prose.words, SHORT_LINE)]
    stop = "." if prose.space else "。"
    return "\n".join(line + (stop if place >= level else "") for place, line in enumerate(lines))


def shorten_lines(prose: Prose, level: int) -> str:
    """More and more words on short lines, the others on long ones."""
    cut_at = level * 3
    return "\n".join([*prose.fill(prose.words[:cut_at], 20), *prose.fill(prose.words[cut_at:], LONG_LINE)])


def break_lines(prose: Prose, level: int) -> str:
    """A line for each of the first words."""
    return "\n".join([*prose.words[:level], prose.join(prose.words[level:])])


def add_lines(*added: str) -> Edit:
    """Level 1, 2 ... adds the first, second ... line behind the first sentence."""

    def edit(prose: Prose, level: int) -> str:
        sentences = prose.sentences
        return "\n".join([sentences[0], *added[level - 1 : level], *sentences[1:]])

    return edit


LOREM = add_lines("Lorem dolor ipsum.", "lorem ipsum", "Here is lorem ipsum", "A page of Lorem Ipsum text.")
BRACE = add_lines(
    "a } b.", "a {", "Turn on javascript { in it.", "if (a) { return b", "if (a) { return b; } and so on."
)
NUMBERS = {"": lambda word: str(1_000 + 7 * len(word)), "%": lambda word: f"{len(word)}.5%"}


PHRASES = {
    2: ("of course", "银行 服务"),
    3: ("as we know", "电脑 也 需要"),
    4: ("at the same time", "老师 每天 喝 咖啡"),
}
EDITS: dict[str, list[Edit]] = {
    "max_duplicate_line_fraction": [repeat_lines],
    "max_duplicate_line_char_fraction": [repeat_one_line],
    "max_duplicate_line_char_fraction_of_lines": [repeat_menu, repeat_one_line],
    "max_duplicate_paragraph_fraction": [repeat_paragraphs],
    "max_duplicate_paragraph_char_fraction": [repeat_one_paragraph],
    **{f"max_top_{n}_gram_token_fraction": [insert_phrase(*each)] for n, each in PHRASES.items()},
    **{f"max_duplicate_{n}_gram_token_fraction": [copy_grams(n)] for n in range(5, 11)},
    "min_num_word_tokens": [cut],
    "min_mean_token_length": [shorten_words],
    "max_mean_token_length": [lengthen_words],
    "max_hash_token_ratio": [spread(lambda word: f"#{word}")],
    "max_ellipsis_token_ratio": [spread(lambda word: f"{word}..."), spread(lambda word: f"{word}…")],
    "max_bullet_all_line_fraction": [change_lines(lambda line: f"- {line}"), change_lines("• ".__add__)],
    "max_ellipsis_all_line_fraction": [
        change_lines(lambda line: f"{line}..."),
        change_lines(lambda line: f"{line} …", LONG_LINE),
    ],
    "min_alpha_token_fraction": [*map(spread, NUMBERS.values()), spread(lambda word: "—")],
    "min_num_exact_stop_words": [remove_stop_words],
    "min_num_chinese_stop_words": [remove_stop_words],
    **{f"max_c4_{each}_lorem_ipsum_lines": [LOREM] for each in ("datatrove", "fineweb")},
    **{f"max_c4_{each}_brace_lines": [BRACE] for each in ("datatrove", "fineweb")},
    **{f"min_c4_{each}_num_sentences": [remove_sentences] for each in ("datatrove", "fineweb")},
    "min_stop_line_fraction": [remove_stops],
    "max_short_line_fraction": [shorten_lines],
    "max_line_break_token_ratio": [break_lines],
}
"""Of each rule, without the name of its preset."""


def make_edited(presets: list[str], proses: list[Prose], per_rule: int) -> Iterator[tuple[str, str, str]]:
    """(source, rule, text) of three texts for each rule and each of `per_rule` proses, of others in turn."""
    place = 0
    for limit in choose_limits(presets, {}):
        name = limit.rule.rpartition("/")[2]
        if name == "max_num_word_tokens":  # see make.py
            continue
        for number in range(per_rule):
            edits, prose = EDITS[name], proses[place % len(proses)]
            place += 1
            for text in take_at_limit(limit, prose, edits[number % len(edits)]):
                yield prose.source, limit.rule, text


def take_at_limit(limit: Limit, prose: Prose, edit: Edit) -> list[str]:
    """The last text that our rule keeps, the first that it drops, and one behind; none if it keeps all."""
    texts = [edit(prose, level).strip() for level in range(len(prose.words))]
    texts = [text for text, behind in pairwise([*texts, ""]) if text != behind]
    values = compute_signals(texts, [limit.signal])[:, 0]
    fails = values < limit.threshold if limit.is_minimum else values > limit.threshold
    for at, (now, then) in enumerate(pairwise(fails), start=1):
        if then and not now:
            return [texts[at - 1], texts[at], *texts[at + 3 + at // 5 :][:1]]
    return []

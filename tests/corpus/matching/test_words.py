"""Word lists: what is a match, in English and Chinese. Counts are written by hand."""

import random
import re

import pytest

from pipelines.corpus.matching.words import count_words, read_words
from pipelines.corpus.rules import Rules, leave_out_unset
from pipelines.corpus.screens import add_screens
from pipelines.corpus.word_list import WordList
from tests.corpus.matching.twin import UNIT


def make_list(folder, *lines, name="rude", **knobs):
    path = folder / f"{name}.txt"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return WordList(name=name, path=str(path), **knobs)


def count(folder, entries, *texts):
    """Matches in each text."""
    words = read_words(make_list(folder, *entries))
    return [matches for matches, _ in count_words(texts, [None] * len(texts), [words])]


def test_english_words_match_as_a_whole(tmp_path):
    texts = ["An ass.", "assess a class", "ASS, Ass and ａｓｓ", "ass-backwards", "ass_et", "asses", ""]
    assert count(tmp_path, ["ass"], *texts) == [1, 0, 3, 1, 0, 0, 0]
    assert count(tmp_path, ["ass"], "_ass_ or __ass", "as\u00ads", "a\u200bss\ufe0f", "1_ass") == [2, 1, 1, 0]


def test_phrases_match_across_marks_and_lines(tmp_path):
    texts = ["bad, word", "a bad\nword!", "bad wording", "word bad", "bad bad word word", "BAD-WORD"]
    assert count(tmp_path, ["bad word"], *texts) == [1, 1, 0, 0, 1, 1]
    assert count(tmp_path, ["don't"], "Don’t and don't", "do not") == [2, 0]


@pytest.mark.parametrize(
    ("entry", "text", "matches"),
    [
        ("他妈", "他妈妈来了", 0),  # 他 | 妈妈: a part of the second word is left over
        ("大麻", "这是一个大麻烦", 0),  # 大 | 麻烦
        ("大麻", "他们吸食大麻。", 1),
        ("性交", "男性交友", 0),  # 男性 | 交友
        ("自杀", "自杀者的亲友", 1),  # inside the word 自杀者
        ("笨蛋", "你这个笨蛋", 1),
        ("笨蛋", "你这个笨，蛋", 1),  # marks separate as in other scripts
        ("大笨蛋", "他是大笨蛋", 1),
        ("笨蛋", "ＡＢ笨蛋cd", 1),
    ],
)
def test_chinese_entries_leave_over_no_part_of_a_word(tmp_path, entry, text, matches):
    assert count(tmp_path, [entry], text) == [matches]


def test_matches_do_not_overlap(tmp_path):
    entries = ["a b", "b c", "a b c d", "x"]
    assert count(tmp_path, entries, "a b c", "a b c d", "a b a b", "x x x", "b c b") == [1, 1, 2, 3, 1]


def test_the_fraction_is_that_of_words_in_matches(tmp_path):
    words = read_words(make_list(tmp_path, "bad word", "笨蛋"))
    counted = count_words(["A bad word, and one more.", "笨蛋啊", "", "!!"], [None] * 4, [words])
    assert counted == [[1, 2 / 6], [1, 2 / 3], [0, 0], [0, 0]]


def test_counts_equal_a_search_of_strings(tmp_path):
    draw = random.Random(3)
    entries = [" ".join(draw.choices("abcde", k=draw.randrange(1, 5))) for _ in range(12)]
    texts = [" ".join(draw.choices("abcdefgh", k=draw.randrange(40))) for _ in range(200)]
    longest_first = sorted(set(entries), key=len, reverse=True)
    pattern = re.compile(rf"\b(?:{'|'.join(longest_first)})\b")
    words = read_words(make_list(tmp_path, *entries))
    counted = count_words(texts, [None] * len(texts), [words])
    for text, (matches, fraction) in zip(texts, counted, strict=True):
        found = pattern.findall(text)
        assert matches == len(found)
        covered = sum(len(UNIT.findall(match)) for match in found)
        assert fraction == covered / max(len(text.split()), 1)
    assert sum(matches for matches, _ in counted) > 200


def test_a_list_is_for_its_languages(tmp_path):
    english = read_words(make_list(tmp_path, "gift", name="en", languages=("en",)))
    both = read_words(make_list(tmp_path, "gift", "礼物", name="both", languages=("en", "zh")))
    languages = ["en", "de", "zh-Hans", None]
    counted = count_words(["gift"] * 4, languages, [english, both])
    assert counted == [[1, 1, 1, 1], [None] * 4, [None, None, 1, 1], [None] * 4]


def test_comments_blank_lines_and_marks_are_left_out(tmp_path):
    plain = read_words(make_list(tmp_path, "two words", "one", name="plain"))
    noisy = make_list(tmp_path, b"\xef\xbb\xbf# list", "", "ONE\r", "  two  words", "one", "# end", name="n")
    assert count_words(["one two words"], [None], [read_words(noisy)]) == [[2, 1]]
    assert read_words(noisy).digest != plain.digest  # two spaces: another entry as it is written
    assert read_words(make_list(tmp_path, "one", "# x", "TWO words", name="o")).digest == plain.digest


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["# only a comment", ""], "'rude': .* has no word; remove the list or fill the file"),
        (["good", b"\xff\xfe"], "'rude': line 2 of .* is not UTF-8; save the file as UTF-8"),
        (["good", "", "***"], "'rude': line 3 has no letter and no digit; remove it"),
    ],
)
def test_a_wrong_line_is_named_by_number(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message) as error:
        read_words(make_list(tmp_path, *lines))
    assert "good" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"word list 'w': .*no\.txt cannot be read: .*; correct path"):
        read_words(WordList(name="w", path=f"{tmp_path}/no.txt"))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"name": "a/b"}, "'a/b': a name consists of letters"),
        ({"path": ""}, "path is empty"),
        ({"max_matches": -1}, "max_matches must be at least 0, got -1"),
        ({"max_fraction": 1.1}, "max_fraction must be from 0 to 1, got 1.1"),
        ({"languages": ("english",)}, "languages are ISO 639 codes, such as en or zh-Hans; got english"),
    ],
)
def test_wrong_lists_are_named(knobs, message):
    with pytest.raises(ValueError, match=message):
        WordList(**{"name": "w", "path": "p", **knobs})


def test_rules_name_the_limits_of_lists():
    lists = (WordList(name="a", path="p", max_matches=2), WordList(name="b", path="p", max_fraction=0.1))
    rules = Rules(word_lists=lists, presets=("fineweb",))
    assert [limit.rule for limit in rules.limits[-2:]] == [
        "word_list/a/max_matches",
        "word_list/b/max_fraction",
    ]
    assert rules.signals[-4:] == (*lists[0].signals, *lists[1].signals)
    assert len(rules.preset_signals) == len(rules.signals) - 4
    changed = rules.change({"word_list/a/max_matches": None, "word_list/b/max_matches": 7})
    assert [(limit.signal, limit.threshold) for limit in changed.limits[-2:]] == [
        ("word_list/b/matches", 7),
        ("word_list/b/fraction", 0.1),
    ]
    with pytest.raises(ValueError, match="there is no word_list/c/max_matches"):
        rules.change({"word_list/c/max_matches": 1})
    with pytest.raises(ValueError, match="names of word_lists must be unique, repeated: a"):
        Rules(word_lists=(lists[0], WordList(name="A", path="p", max_matches=2)))


def test_a_list_may_have_the_name_of_a_limit():
    lists = [WordList(name=name, path="p", max_matches=2) for name in ("max_swear", "swear")]
    limits = Rules(word_lists=tuple(lists)).limits
    assert [limit.signal for limit in limits] == [each.signals[0] for each in lists]


def test_languages_are_looked_for_if_a_list_asks():
    assert not Rules(word_lists=(WordList(name="a", path="p"),)).need_languages
    rules = Rules(word_lists=(WordList(name="a", path="p", languages=("en",)),))
    assert rules.need_languages
    assert not rules.are_measured
    assert rules.read_texts


def test_the_content_of_a_list_is_part_of_the_fingerprint(tmp_path):
    from pipelines.corpus.decontamination import Decontamination
    from pipelines.corpus.manifest import list_sources
    from pipelines.corpus.source import Source

    (tmp_path / "a.txt").write_text("a text")
    manifest = list_sources([Source(name="s", path=f"{tmp_path}/a.txt", format="text")])

    def digest(*words, name="w"):
        return add_screens(manifest, [make_list(tmp_path, *words, name=name)], Decontamination()).digest

    assert add_screens(manifest, [], Decontamination()) is manifest
    assert digest("one", "two") == digest("two", "# comment", "one", name="moved")
    assert len({manifest.digest, digest("one"), digest("one", "two")}) == 3
    rules = {"min_chars": 1, "word_lists": [{"name": "w", "path": "here", "max_matches": 1}]}
    settings = {"rules": rules, "sources": []}
    moved = {"rules": {**rules, "word_lists": [{**rules["word_lists"][0], "path": "there"}]}, "sources": []}
    assert leave_out_unset(settings) == leave_out_unset(moved)
    assert leave_out_unset({"rules": {**rules, "word_lists": []}, "sources": []})["rules"] == {"min_chars": 1}

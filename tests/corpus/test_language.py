"""Languages of short texts of our own, and of the samples in data/chinese, whose languages are known."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from pipelines.corpus.language import MAX_CHARS, identify_language
from pipelines.corpus.rules import Rules


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("My card has not arrived yet. What can I do?", "en"),
        ("Meine Karte ist noch nicht angekommen. Was kann ich tun?", "de"),
        ("Ma carte n'est pas encore arrivée, que puis-je faire ?", "fr"),
        ("我的银行卡还没有到，怎么办？请问需要多长时间？", "zh-Hans"),
        ("我的銀行卡還沒有到，怎麼辦？請問需要多長時間？", "zh-Hant"),
        ("私のカードはまだ届いていません。どうすればいいですか。", "ja"),
    ],
)
def test_languages_and_scripts_are_found(text, language):
    found, score = identify_language(text)
    assert found == language
    assert 0.9 < score <= 1


def test_script_without_evidence_is_plain_chinese():
    found, _ = identify_language("你好你好人山人海天天向上")  # characters that both scripts share
    assert found == "zh"


def test_an_empty_text_has_no_language():
    assert identify_language("") is None


def test_the_beginning_of_a_text_decides():
    english = "The quick brown fox jumps over the lazy dog. " * 40
    assert len(english) > MAX_CHARS
    assert identify_language(english + "我的银行卡" * 5000) == identify_language(english)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"languages": ("english",)}, r"ISO 639 codes, such as en or zh-Hans; got english"),
        ({"languages": ("en",), "min_language_score": 1.5}, r"between 0 and 1, got 1.5"),
    ],
)
def test_wrong_languages_are_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        Rules(**knobs)


CHINESE = Path(__file__).parents[2] / "data" / "chinese"


def count_languages(name, column):
    """(value of the column, language found) -> texts."""
    with gzip.open(CHINESE / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return Counter((row.get(column), identify_language(row["text"])[0]) for row in rows)


def test_parallel_sentences_get_their_language_and_script():
    found = count_languages("sib200", "language")
    assert sum(found.values()) == 3 * 1_004
    right = {language: found[language, language] for language in ("en", "zh-Hans", "zh-Hant")}
    assert right == {"en": 1_003, "zh-Hans": 1_003, "zh-Hant": 1_004}
    assert found["zh-Hans", "zh"] == 1  # no character that only one table has


def test_pages_of_code_and_chinese_are_simplified_chinese():
    found = count_languages("tidb_docs", "language")
    # The beginnings of two pages are code and tables for the most part.
    assert found == {(None, "zh-Hans"): 374, (None, "en"): 2}


def test_classics_get_the_script_of_their_edition():
    found = count_languages("classics", "book")
    # 诗经 has rare characters that GB 2312 lacks and Big5 has.
    assert found == {
        ("论语", "zh-Hans"): 20,
        ("诗经", "zh-Hans"): 296,
        ("诗经", "zh"): 6,
        ("诗经", "zh-Hant"): 3,
        ("唐詩三百首", "zh-Hant"): 366,
    }

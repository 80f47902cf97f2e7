"""Languages of short texts of our own. Accuracy on SIB-200 stands in `pipelines/corpus/language.py`."""

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

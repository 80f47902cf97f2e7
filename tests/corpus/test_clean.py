"""Cleaning steps and personal data. Texts and numbers are made up; check digits are worked out by hand."""

import random
import time
from collections import Counter

import ftfy
import pytest

from pipelines.corpus.clean import Cleaner, remove_control_characters, repair_encoding, tidy_white_space
from pipelines.corpus.cleaning import PII_KINDS, Cleaning
from pipelines.corpus.national_ids import NATIONAL_IDS, is_cn_id
from pipelines.corpus.pii import KINDS, has_luhn_digit, replace_pii
from pipelines.corpus.readers.mapping import Mapper
from tests.corpus.reading import make_source
from tests.corpus.test_build import build, source, write_records


@pytest.mark.parametrize(
    ("text", "repaired"),
    [
        ("cafÃ© crÃ¨me", "café crème"),
        ("donâ€™t", "don’t"),
        ("æˆ‘çš„å\x8d¡", "我的卡"),
        ("café, 我的卡 ½ × “x”", "café, 我的卡 ½ × “x”"),
        ("plain", "plain"),
    ],
)
def test_mojibake_is_repaired_and_other_text_kept(text, repaired):
    assert repair_encoding(text) == repaired


def test_long_texts_are_repaired_as_ftfy_does():
    draw, words = random.Random(3), ["café", "– “x” ", "œuvre", "Москва", "我的卡", "naïve", "à ", "ØÙ", "°C"]
    num_repaired = 0
    for _ in range(2_000):
        parts = []
        for _ in range(draw.randint(1, 4)):
            word, codec = draw.choice(words), draw.choice(("latin-1", "cp1252", "cp1251", "utf-8"))
            parts += [word.encode().decode(codec, "replace") if draw.random() < 0.3 else word]
            parts += ["".join(draw.choices("ab .\n", k=draw.choice((0, 1, 7, 8, 9, 15, 16, 17, 40))))]
        text = "".join(parts)
        num_repaired += ftfy.fix_encoding(text) != text
        assert repair_encoding(text) == ftfy.fix_encoding(text)
    assert num_repaired > 200


def test_control_characters_go_and_joiners_stay():
    assert remove_control_characters("a\x00b\x07\u200b\ufeff\u202ec\tx\ny") == "abc\tx\ny"
    assert remove_control_characters("می\u200cخواهم 👩\u200d💻") == "می\u200cخواهم 👩\u200d💻"
    assert remove_control_characters("one\u2028two\x0bthree") == "one\ntwo\nthree"


def test_white_space_is_tidied_without_indentation():
    assert tidy_white_space("a\xa0b\u3000c \t\n    d\n\n\n\ne") == "a b c\n    d\n\ne"


def test_steps_are_off_by_default():
    text = "cafÃ©\u200b\xa0b \n\n\n\nmail: a@b.org"
    cleaner = Cleaner(Cleaning())
    assert (cleaner.clean(text), cleaner.take_counts()) == (text, {})


def test_each_step_is_counted_once_per_text():
    cleaner = Cleaner(
        Cleaning(mojibake=True, control_characters=True, white_space=True, pii=("email", "cn_mobile"))
    )
    text = "cafÃ©\u200b\xa0b \n\n\n\na@b.org or c.d@e.co.uk, 13812345678"
    assert cleaner.clean(text) == "café b\n\n<EMAIL> or <EMAIL>, <CN_MOBILE>"
    assert cleaner.take_counts() == {
        "mojibake": 1,
        "control_characters": 1,
        "white_space": 1,
        "email": 2,
        "cn_mobile": 1,
    }
    assert cleaner.take_counts() == {}
    cleaned = cleaner.clean("café b\n\n<EMAIL> or <EMAIL>, <CN_MOBILE>")
    assert (cleaned, cleaner.take_counts()) == ("café b\n\n<EMAIL> or <EMAIL>, <CN_MOBILE>", {})


@pytest.mark.parametrize(
    ("kind", "text", "replaced"),
    [
        ("email", "write to j.doe+x@mail.example.com.", "write to <EMAIL>."),
        ("email", "邮箱zhang@qq.com，谢谢", "邮箱<EMAIL>，谢谢"),
        ("email", "a @b.com, x@y, @user, 5@6", "a @b.com, x@y, @user, 5@6"),
        ("ip", "from 8.8.8.8:53 to [2001:4860:4860::8888]", "from <IP>:53 to [<IP>]"),
        ("ip", "127.0.0.1 10.1.2.3 192.168.0.1 ::1 fe80::1", "127.0.0.1 10.1.2.3 192.168.0.1 ::1 fe80::1"),
        ("ip", "256.1.1.1 1.2.3 1.2.3.4.5 at 10:30:15", "256.1.1.1 1.2.3 1.2.3.4.5 at 10:30:15"),
        ("phone", "call +44 20 7946 0958 or (212) 555-0123.", "call <PHONE> or <PHONE>."),
        ("phone", "in 1914-1918, 2026-11-21, 3.14159265, +5", "in 1914-1918, 2026-11-21, 3.14159265, +5"),
        ("card", "card 4111 1111 1111 1111, 5500-0000-0000-0004", "card <CARD>, <CARD>"),
        ("card", "4111 1111 1111 1112 and 0000000000000000", "4111 1111 1111 1112 and 0000000000000000"),
        ("cn_id", "身份证11010519491231002X号", "身份证<CN_ID>号"),
        ("cn_id", "110105194912310021 11010519491331002X", "110105194912310021 11010519491331002X"),
        ("cn_mobile", "手机13812345678，+86 138 1234 5678", "手机<CN_MOBILE>，<CN_MOBILE>"),
        ("cn_mobile", "12812345678 1381234567 138123456789", "12812345678 1381234567 138123456789"),
    ],
)
def test_personal_data_is_replaced_where_it_is_real(kind, text, replaced):
    found, counts = replace_pii(text, [kind])
    assert found == replaced
    assert sum(counts.values()) == replaced.count(KINDS[kind].placeholder)


def test_every_kind_has_a_pattern():
    assert sorted(KINDS) == sorted(PII_KINDS)


def test_check_digits_follow_their_standards():
    # 4539 1488 0343 646?: doubled every second digit, the sum of digits is 73 without the last one
    assert [digit for digit in "0123456789" if has_luhn_digit(f"453914880343646{digit}")] == ["7"]
    # Weights 7 9 10 5 8 4 2 1 6 3 7 9 10 5 8 4 2 on 11010519491231002: 167 = 2 modulo 11, which stands for X
    assert [digit for digit in "0123456789X" if is_cn_id(f"11010519491231002{digit}")] == ["X"]


@pytest.mark.parametrize(
    "text", ["a" * 200_000, "1 " * 100_000, "1-" * 100_000, "a.b" * 60_000, ":" * 100_000, "+1 (" * 50_000]
)
def test_patterns_take_linear_time(text):
    start = time.process_time()
    replace_pii(text, PII_KINDS)
    assert time.process_time() - start < 2  # a quadratic pattern takes minutes


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match=r"cleaning.pii must be among email, .*, got passport"):
        Cleaning(pii=("passport",))


def test_a_broken_record_leaves_no_counts():
    mapped = {"format": "jsonl", "fields": {"text": "t"}, "parts": {"a": "a", "b": "b"}}
    dialogues = make_source(**mapped, cleaning=Cleaning(pii=("email",)))
    mapper = Mapper(dialogues)
    with pytest.raises(ValueError, match="part b"):
        mapper.map_values({"t": "x", "a": "a@b.org", "b": 5})
    assert mapper.map_values({"t": "x", "a": "", "b": ""}).edits is None


def test_edits_are_counted_by_document(spark, tmp_path):
    write_records(
        tmp_path,
        {"text": "mail a@b.org and c@d.org"},
        {"text": "mail e@f.org \n\n\n\nnow"},
        {"text": "nothing here"},
        {"text": 5},
    )
    cleaning = Cleaning(white_space=True, pii=("email", "card"))
    with build(spark, [source(tmp_path, cleaning=cleaning)]) as (documents, quarantine, corpus):
        assert {row.text for row in documents.collect()} == {
            "mail <EMAIL> and <EMAIL>",
            "mail <EMAIL>\n\nnow",
            "nothing here",
        }
        assert corpus.facts["edits"] == {
            "email": {"documents": 2, "edits": 3},
            "white_space": {"documents": 1, "edits": 1},
        }
        assert quarantine.count() == 1
    with build(spark, [source(tmp_path)]) as (_, _, corpus):
        assert "edits" not in corpus.facts


def test_no_text_with_personal_data_lacks_the_hint():
    draw, found = random.Random(4), Counter()
    kinds = {name: kind for name, kind in KINDS.items() if name not in NATIONAL_IDS}  # test_national_ids.py
    pieces = ["1", "38", "213", "2", "4567", "55", "aa", "aa@a", *".:- +a@()"]
    for number in range(40_000):
        text = "".join(draw.choices(pieces, k=12) if number % 4 else draw.choices("123456789", k=18))
        for name, kind in kinds.items():
            if match := kind.pattern.search(text):
                assert kind.hint.search(match[0]), (name, text)
                found[name] += 1
    assert min(found[name] for name in kinds) > 5, found


def test_a_page_without_lines_is_dropped_as_empty(spark, tmp_path):
    write_records(tmp_path, {"text": "Home\nMenu"}, {"text": "One two three four five.\nLog in"})
    with build(spark, [source(tmp_path, cleaning=Cleaning(c4_lines="paper"))]) as (documents, _, corpus):
        reasons = {row.text: row.drop_reason for row in documents.collect()}
        assert reasons == {"": "empty", "One two three four five.": None}
        assert corpus.facts["edits"] == {"c4_lines": {"documents": 2, "edits": 3}}

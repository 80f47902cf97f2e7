"""How a report writes bars, numbers, names and addresses."""

import re

import pytest

from pipelines.bars import Part, draw_bars, format_large, format_share
from pipelines.corpus.report.content import Tokens, format_tokens, show_url
from pipelines.markup import escape, name, tag


def test_bars_stay_inside_their_picture():
    drawn = draw_bars([[Part("kept", 0, 999_999), Part("lost", 999_999, 1)], []], [10**6, 0])
    rects = re.findall(r'<rect [^>]*x="([^"]*)" [^>]*width="([^"]*)"', drawn)
    assert len(rects) == 2
    for start, width in rects:
        assert float(width) >= 4
        assert float(start) + float(width) <= 1000.1


@pytest.mark.parametrize(
    ("part", "whole", "expected"),
    [
        (0, 0, "-"),
        (0, 9, "0 %"),
        (9, 9, "100 %"),
        (1, 10**6, "< 0.01 %"),
        (10**6 - 1, 10**6, "> 99.9 %"),
        (1, 3, "33 %"),
        (12, 1000, "1.2 %"),
        (997, 1000, "99.7 %"),
    ],
)
def test_only_all_is_a_hundred_per_cent(part, whole, expected):
    assert format_share(part, whole) == expected


def test_large_numbers_have_a_short_form():
    numbers = (9_999_999, 12_345_678, 999_600_000, 4_560_000_000, 12 * 10**15)
    assert [format_large(number) for number in numbers] == [
        "9,999,999",
        "12.3 million",
        "1,000 million",
        "4.56 billion",
        "12,000 trillion",
    ]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a.org/p/q?mail=x@y.z#part", "https://a.org/p/q"),
        ("http://user:secret@a.org/p", "http://a.org/p"),
        ("http://[::1]:80/reset/jane@x.org/a%40b", "http://[::1]/reset/.../..."),
        ("javascript:alert(1)", None),
        ("http://[bad", None),
        (None, None),
    ],
)
def test_addresses_lose_what_may_be_personal(url, shown):
    assert show_url(url) == shown


def test_names_may_break_but_keep_their_text():
    assert name("a/b_c") == "a/<wbr>b_<wbr>c"
    assert escape(tag("b", "<")) == "<b>&lt;</b>"


@pytest.mark.parametrize(
    ("tokens", "shown"),
    [
        (None, "-"),
        (Tokens(0), "0"),
        (Tokens(7), "about 7"),
        (Tokens(123_456), "about 123,000"),
        (Tokens(123_456, is_exact=True), "123,456"),
        (Tokens(12_345_678_901), "about 12.3\u00a0billion"),
    ],
)
def test_estimates_have_three_digits(tokens, shown):
    assert format_tokens(tokens) == shown

"""Identity numbers, random or published examples, and what looks like them and stays."""

import random
import re
from collections import Counter
from datetime import datetime, timedelta

import pytest

from pipelines.corpus.cleaning import PII_KINDS
from pipelines.corpus.national_ids import NATIONAL_IDS
from pipelines.corpus.pii import replace_pii
from tests.corpus.national_ids_twin import (
    CHECKED,
    DIGITS,
    br_check,
    draw_digits,
    draw_number,
    es_check,
    hk_body,
    hk_check,
    in_check,
    it_check,
    kr_check,
)


@pytest.mark.parametrize("kind", CHECKED)
def test_only_the_right_check_passes(kind):
    make, find_check, checks = CHECKED[kind]
    draw = random.Random(kind)
    for _ in range(150):
        body = make(draw)
        passed = [check for check in checks if replace_pii(body + check, [kind])[1]]
        assert passed == [find_check(body)], body


@pytest.mark.parametrize("kind", NATIONAL_IDS)
def test_numbers_are_replaced_in_english_and_chinese(kind):
    draw, mark = random.Random(kind), NATIONAL_IDS[kind].placeholder
    for _ in range(50):
        number = draw_number(kind, draw)
        text = "His number is {0}, or ({0}). 号码{0}，请核对；编号：{0}号\n{0}"
        assert replace_pii(text.format(number), [kind]) == (text.format(mark), {kind: 5})


@pytest.mark.parametrize("kind", NATIONAL_IDS)
def test_numbers_inside_longer_ones_stay(kind):
    draw = random.Random(kind)
    for _ in range(50):
        number = draw_number(kind, draw)
        for text in (f"7{number}", f"{number}7", f"x{number}", f"{number}x", f"7{number}7"):
            assert replace_pii(text, [kind]) == (text, {})


@pytest.mark.parametrize("kind", ["us_ssn", "fr_nir", "br_cpf", "in_aadhaar", "kr_rrn"])
def test_parts_of_fractions_uuids_and_telephone_numbers_stay(kind):
    draw = random.Random(kind)
    for _ in range(50):
        number = draw_number(kind, draw)
        for text in (
            f"0.{number}",
            f"{number}.5",
            f"a716-{number}",
            f"{number}-2",
            f"+{number}",
            f"+55 {number}",
        ):
            assert replace_pii(text, [kind]) == (text, {})


WRITTEN = [
    ("tw_id", "A123456789 a123456789", "<TW_ID> <TW_ID>"),
    ("tw_id", "A323456789 A12345678 A123456788", "A323456789 A12345678 A123456788"),
    (
        "hk_id",
        "A123456(3) A1234563 A123456 (3) 身份證A123456（3）號",
        "<HK_ID> <HK_ID> <HK_ID> 身份證<HK_ID>號",
    ),
    ("hk_id", "AB123456(9) a123456(3) ABC123456(9)", "<HK_ID> a123456(3) ABC123456(9)"),
    ("hk_id", "AB123456 (9) AB123456（9） AB1234569", "<HK_ID> <HK_ID> AB1234569"),
    ("us_ssn", "SSN 123-45-6789, 899-01-0001", "SSN <US_SSN>, <US_SSN>"),
    ("us_ssn", "call 555-12-3456", "call <US_SSN>"),  # a telephone number by its place only
    (
        "us_ssn",
        "000-12-3456 666-12-3456 900-12-3456 123-00-3456 123-45-0000 123456789",
        "000-12-3456 666-12-3456 900-12-3456 123-00-3456 123-45-0000 123456789",
    ),
    ("gb_nino", "AB123456C AB 12 34 56 C AB-12-34-56-C", "<GB_NINO> <GB_NINO> <GB_NINO>"),
    *(
        ("gb_nino", f"{prefix}123456C", f"{prefix}123456C")
        for prefix in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ")
    ),
    *(("gb_nino", f"{letter}B123456C", f"{letter}B123456C") for letter in "DFIQUV"),
    *(("gb_nino", f"A{letter}123456C", f"A{letter}123456C") for letter in "DFIOQUV"),
    ("gb_nino", "AB123456E ab123456c", "AB123456E ab123456c"),
    ("es_dni", "12345678Z 12345678-z 12.345.678-Z X1234567L X-1234567-L", "<ES_DNI> " * 4 + "<ES_DNI>"),
    (
        "es_dni",
        "12345678 Z 12345678A W1234567L 1.12.345.678-Z",
        "12345678 Z 12345678A W1234567L 1.12.345.678-Z",
    ),
    ("fr_nir", "2 95 10 99 126 111 93 ou 253072B07300470", "<FR_NIR> ou <FR_NIR>"),
    ("fr_nir", "2 95 13 99 126 111 90 253072C07300470", "2 95 13 99 126 111 90 253072C07300470"),
    ("it_cf", "RCCMNL83S18D969H RCC MNL 83S18 D969 H", "<IT_CF> <IT_CF>"),
    ("br_cpf", "529.982.247-25 52998224725 529982247-25", "<BR_CPF> <BR_CPF> <BR_CPF>"),
    (
        "br_cpf",
        "111.111.111-11 529.982.247-26 0.529.982.247-25",
        "111.111.111-11 529.982.247-26 0.529.982.247-25",
    ),
    ("in_aadhaar", "2341 2341 2346, 2341-2341-2346", "<IN_AADHAAR>, <IN_AADHAAR>"),
    ("in_aadhaar", "2341 2341-2346 2341 2341 2346 0001", "2341 2341-2346 2341 2341 2346 0001"),
    ("kr_rrn", "211231-3000000 and 971013-9019902", "<KR_RRN> and 971013-9019902"),
    ("kr_rrn", "990229-1234568 000229-3234563", "990229-1234568 <KR_RRN>"),
    ("kr_rrn", "order 231105-4567890, order 231105-1567890", "order <KR_RRN>, order 231105-1567890"),
]


@pytest.mark.parametrize(("kind", "text", "replaced"), WRITTEN)
def test_forms_that_people_write(kind, text, replaced):
    mark = NATIONAL_IDS[kind].placeholder
    assert replace_pii(text, [kind]) == (replaced, {kind: replaced.count(mark)} if mark in replaced else {})


def test_two_letters_of_hong_kong_need_brackets():
    draw = random.Random(852)
    for _ in range(150):
        body = hk_body(draw, letters=2)
        passed = [check for check in "0123456789A" if replace_pii(f"{body}({check})", ["hk_id"])[1]]
        assert passed == [hk_check(body)], body
        assert replace_pii(body + hk_check(body), ["hk_id"])[1] == {}


@pytest.mark.parametrize(
    ("body", "needs_check"),
    [
        ("200930-351234", True),
        ("201001-351234", False),
        ("201001-451234", False),
        ("201001-751234", False),
        ("201001-851234", False),
        ("201001-151234", True),  # born 1920
        ("201001-651234", True),
        ("000101-351234", True),
        ("991231-451234", False),  # born 2099
        ("991231-251234", True),
        ("201001351234", True),
    ],
)
def test_koreans_born_since_october_2020_need_no_check_digit_with_the_hyphen(body, needs_check):
    passed = "".join(check for check in DIGITS if replace_pii(body + check, ["kr_rrn"])[1])
    assert passed == (kr_check(body.replace("-", "")) if needs_check else DIGITS)


def find_taken(kind, bodies, find_check):
    """Which bodies are taken with their right check."""
    return [body for body in bodies if replace_pii(body + find_check(body), [kind])[1]]


def test_years_side_by_side_stay():
    draw = random.Random(1900)
    triples = [(year, year + step, year + 2 * step) for year in range(1902, 2098) for step in (-1, 1)]
    triples += [draw.choices(range(1900, 2100), k=3) for _ in range(3_000)]
    for triple in triples:
        for separator in (" ", "-", "", "\t", " | "):
            text = f"Year ended {separator.join(map(str, triple))}\n"
            assert replace_pii(text, NATIONAL_IDS) == (text, {})
    others = ["20001899202", "20002100202", "21002000202", "20002023189", "20002023210"]
    years = ["20001900209", "20992023202"]
    assert find_taken("in_aadhaar", years + others, in_check) == others


def test_minutes_stay():
    others = ["20171306024", "20170230024", "20170506240", "20170506236", "21000101000"]
    minutes = ["20170506235", "20000229000", "20991231000"]
    assert find_taken("in_aadhaar", minutes + others, in_check) == others


def test_days_with_a_letter_stay():
    others = ["18991231", "21000101", "20171329", "20170229", "12345678", "20.171.129"]
    days = ["19000101", "20171129", "20160229", "20991231", "20171129-"]
    assert find_taken("es_dni", days + others, lambda body: es_check(re.sub("[.-]", "", body))) == others


@pytest.mark.parametrize("kind", NATIONAL_IDS)
def test_time_stamps_and_patents_stay(kind):
    draw = random.Random(8601)
    for _ in range(400):
        time = datetime(2000, 1, 1) + timedelta(seconds=draw.randrange(99 * 365 * 86_400))
        office, number = draw.choice(("US", "EP", "JP", "GB", "DE", "FR", "KR")), draw_digits(draw, 7)
        text = (
            f"{time:%Y%m%d%H%M}, {time:%Y%m%d%H%M%S}, {time:%Y%m%dT%H%M%SZ}, {time:%Y%m%dT%H%MZ}, "
            f"{time:%Y%m%dZ}, {time:%Y%m%dW}, "
            f"{time:%Y-%m-%dT%H:%M:%S}.123456+0200, {time:%Y-%m-%d %H%M}, {time:%Y-%j} {time:%G-W%V-%u}; "
            f"see {office}{number}; and {office} {number} A1, {office}{number}B2, US1{number}B1, "
            f"WO{time:%Y}{number[1:]}, {office}{time:%Y}{number}A1, {office} {time:%Y}/{number}"
        )
        assert replace_pii(text, [kind]) == (text, {})


def test_a_day_that_no_month_has_is_no_codice_fiscale():
    for body in ("RCCMNL83S31D969", "RCCMNL83B70D969", "RCCMNL83S00D969"):
        text = body + it_check(body)
        assert replace_pii(text, ["it_cf"]) == (text, {})


def test_kinds_that_were_not_asked_for_stay():
    samples = {kind: draw_number(kind, random.Random(7)) for kind in NATIONAL_IDS}
    text = "; ".join(samples.values())
    for kind in NATIONAL_IDS:
        assert replace_pii(text, [kind]) == (
            text.replace(samples[kind], NATIONAL_IDS[kind].placeholder),
            {kind: 1},
        )


@pytest.mark.parametrize(
    ("text", "replaced"),
    [
        # Where two kinds fit, the one that fewer numbers pass by chance is looked for first.
        ("4111 1111 1111 1111", "<CARD>"),
        ("13812345678 +86 138 1234 5678", "<CN_MOBILE> <CN_MOBILE>"),
        ("+91 2341 2341 2346 and +1 212 555 0123", "<PHONE> and <PHONE>"),
        ("110105194912310021 11010519491231002X", "110105194912310021 <CN_ID>"),
        ("139123456" + br_check("139123456"), "<BR_CPF>"),  # a mobile number by its shape
        ("AB123456(9) AB123456A", "<HK_ID> <GB_NINO>"),
    ],
)
def test_numbers_that_two_kinds_fit(text, replaced):
    assert replace_pii(text, PII_KINDS)[0] == replaced


def test_no_number_lacks_the_hint():
    draw, found = random.Random(5), Counter()
    for _ in range(3_000):
        for name, kind in NATIONAL_IDS.items():
            number = draw_number(name, draw).replace("-", "")
            text = "".join(draw.choice(("", "", "", " ", "-", ".")) + character for character in number)
            groups = re.sub("(?<=[0-9])(?=[0-9]{2,4}$)", draw.choice(" -."), number)
            for each in (text, groups, draw_number(name, draw)):
                if match := kind.pattern.search(each):
                    assert kind.hint.search(match[0]), (name, each)
                    found[name] += 1
    assert min(found[name] for name in NATIONAL_IDS) >= 3_000, found


@pytest.mark.parametrize("kind", NATIONAL_IDS)
def test_patterns_are_bounded(kind):
    """Nothing repeats without a limit, so each start costs a bounded number of steps."""
    plain = re.sub(r"\\.|\[[^]]*\]", "c", NATIONAL_IDS[kind].pattern.pattern)
    assert "c" in plain
    assert not re.search(r"[*+]|\{[0-9]+,\}", plain)
    assert sum(int(count) for count in re.findall(r"\{(?:[0-9]+,)?([0-9]+)\}", plain)) < 60

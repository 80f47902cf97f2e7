"""Identity numbers. The twins work out check characters in another way than the code. The numbers are random
or published examples."""

import random
import re
from collections import Counter

import pytest

from pipelines.corpus.cleaning import PII_KINDS
from pipelines.corpus.national_ids import NATIONAL_IDS
from pipelines.corpus.pii import replace_pii

CAPITALS, DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"


def draw_digits(draw, count):
    return "".join(draw.choices(DIGITS, k=count))


def draw_day(draw):
    return draw.randrange(1, 13), draw.randrange(1, 29)


# Each kind has a function that draws a number without its check, and a twin that finds the check.


def cn_body(draw):
    month, day = draw_day(draw)
    place, year = draw.randrange(110000, 660000), draw.randrange(1850, 2026)
    return f"{place}{year}{month:02}{day:02}{draw_digits(draw, 3)}"


def cn_check(body):  # ISO 7064 MOD 11-2, digit by digit
    remainder = 0
    for digit in body:
        remainder = (remainder + int(digit)) * 2 % 11
    return "0123456789X"[(12 - remainder) % 11]


def tw_body(draw):
    return draw.choice(CAPITALS) + draw.choice("1289ABCD") + draw_digits(draw, 7)


TW_REGIONS = dict(
    zip("ABCDEFGHIJKLM", (10, 11, 12, 13, 14, 15, 16, 17, 34, 18, 19, 20, 21), strict=True)
) | dict(zip("NOPQRSTUVWXYZ", (22, 35, 23, 24, 25, 26, 27, 28, 29, 32, 30, 31, 33), strict=True))


def tw_check(body):
    region = str(TW_REGIONS[body[0]])
    second = body[1] if body[1] in DIGITS else str(TW_REGIONS[body[1]])[1]
    total = int(region[0]) + 9 * int(region[1]) + 8 * int(second)
    for weight, digit in zip(range(7, 0, -1), body[2:], strict=True):
        total += weight * int(digit)
    return str(-total % 10)


def hk_body(draw):
    return "".join(draw.choices(CAPITALS, k=draw.randint(1, 2))) + draw_digits(draw, 6)


def hk_check(body):
    letters, digits = body[:-6].rjust(2), body[-6:]
    values = [36 if letter == " " else ord(letter) - 55 for letter in letters] + [int(d) for d in digits]
    remainder = sum((9 - place) * value for place, value in enumerate(values)) % 11
    return {0: "0", 1: "A"}.get(remainder) or str(11 - remainder)


def es_body(draw):
    return draw_digits(draw, 8) if draw.random() < 0.5 else draw.choice("XYZ") + draw_digits(draw, 7)


def es_check(body):  # the letters by remainder, found by powers of ten
    digits = body.translate(str.maketrans("XYZ", "012"))
    return dict(enumerate("TRWAGMYFPDXBNJZSQVHLCKE"))[
        sum(int(digit) * pow(10, power, 23) for power, digit in enumerate(reversed(digits))) % 23
    ]


def fr_body(draw):
    place = draw.choice(["2A", "2B", f"{draw.randrange(1, 96):02}"])
    return f"{draw.choice('12')}{draw_digits(draw, 2)}{draw.randrange(1, 13):02}{place}{draw_digits(draw, 6)}"


def fr_check(body):  # INSEE: A and B count as 0, and 1 or 2 million less
    less = 1_000_000 * (body[6] == "A") + 2_000_000 * (body[6] == "B")
    number = int(body.replace("A", "0").replace("B", "0")) - less
    return next(f"{key:02}" for key in range(1, 98) if (number + key) % 97 == 0)


IT_ODD = dict(zip(DIGITS + CAPITALS, [1, 0, 5, 7, 9, 13, 15, 17, 19, 21] * 2 + [0] * 16, strict=True))
IT_ODD |= dict(zip("KLMNOPQR", (2, 4, 18, 20, 11, 3, 6, 8), strict=True))
IT_ODD |= dict(zip("STUVWXYZ", (12, 14, 16, 10, 22, 25, 24, 23), strict=True))


def it_body(draw):
    month, day = draw_day(draw)
    code = "".join(draw.choices(CAPITALS, k=6)) + draw_digits(draw, 2) + "ABCDEHLMPRST"[month - 1]
    code += f"{day + draw.choice((0, 40)):02}{draw.choice(CAPITALS)}{draw_digits(draw, 3)}"
    places = draw.sample((6, 7, 9, 10, 12, 13, 14), draw.choice((0, 0, 1, 7)))  # letters for digits
    return "".join("LMNPQRSTUV"[int(c)] if place in places else c for place, c in enumerate(code))


def it_check(body):
    total = 0
    for place, character in enumerate(body, 1):
        rank = (DIGITS if character in DIGITS else CAPITALS).index(character)
        total += IT_ODD[character] if place % 2 else rank
    return CAPITALS[total % 26]


def br_check(body):  # ascending weights 1 to 9, then 0 to 9
    first = sum(place * int(digit) for place, digit in enumerate(body, 1)) % 11 % 10
    second = sum(place * int(digit) for place, digit in enumerate(f"{body}{first}")) % 11 % 10
    return f"{first}{second}"


DIHEDRAL = (  # the published tables of Verhoeff: products, permutations
    *("0123456789", "1234067895", "2340178956", "3401289567", "4012395678"),
    *("5987604321", "6598710432", "7659821043", "8765932104", "9876543210"),
)
PERMUTED = ("0123456789", "1576283094", "5803796142", "8916043527")
PERMUTED += ("9453126870", "4286573901", "2793806415", "7046913258")


def in_check(body):
    for check in DIGITS:
        state = "0"
        for place, digit in enumerate(reversed(body + check)):
            state = DIHEDRAL[int(state)][int(PERMUTED[place % 8][int(digit)])]
        if state == "0":
            return check
    raise AssertionError


def kr_body(draw):
    month, day = draw_day(draw)
    return f"{draw_digits(draw, 2)}{month:02}{day:02}{draw.choice('12345678')}{draw_digits(draw, 5)}"


def kr_check(body):
    total = sum(int(digit) * (place % 8 + 2) for place, digit in enumerate(body))
    check = 11 - total % 11
    check -= 10 * (check >= 10)
    check += 2 * (body[6] in "5678")
    return str(check - 10 * (check >= 10))


CHECKED = {
    "cn_id": (cn_body, cn_check, "0123456789X"),
    "tw_id": (tw_body, tw_check, DIGITS),
    "hk_id": (hk_body, hk_check, "0123456789A"),
    "es_dni": (es_body, es_check, "ABCDEFGHJKLMNPQRSTVWXYZ"),
    "fr_nir": (fr_body, fr_check, [f"{key:02}" for key in range(100)]),
    "it_cf": (it_body, it_check, CAPITALS),
    "br_cpf": (lambda draw: draw_digits(draw, 9), br_check, [f"{key:02}" for key in range(100)]),
    "in_aadhaar": (lambda draw: draw.choice("23456789") + draw_digits(draw, 10), in_check, DIGITS),
    "kr_rrn": (kr_body, kr_check, DIGITS),
}


def draw_number(kind, draw):
    if kind == "us_ssn":
        return f"{draw.randrange(1, 666):03}-{draw.randrange(1, 100):02}-{draw.randrange(1, 10_000):04}"
    if kind == "gb_nino":
        return draw.choice(("AB", "CE", "JG", "ZY")) + draw_digits(draw, 6) + draw.choice("ABCD")
    make, check, _ = CHECKED[kind]
    body = make(draw)
    return body + check(body)


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
        text = f"His number is {number}, or ({number}). 号码{number}，请核对；编号：{number}号\n{number}"
        expected = f"His number is {mark}, or ({mark}). 号码{mark}，请核对；编号：{mark}号\n{mark}"
        assert replace_pii(text, [kind]) == (expected, {kind: 5})


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
    ("us_ssn", "SSN 123-45-6789, 899-01-0001", "SSN <US_SSN>, <US_SSN>"),
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
    ("kr_rrn", "990229-1234567 000229-3234567", "990229-1234567 <KR_RRN>"),
]


@pytest.mark.parametrize(("kind", "text", "replaced"), WRITTEN)
def test_forms_that_people_write(kind, text, replaced):
    mark = NATIONAL_IDS[kind].placeholder
    assert replace_pii(text, [kind]) == (replaced, {kind: replaced.count(mark)} if mark in replaced else {})


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

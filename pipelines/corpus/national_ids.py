"""National identity numbers: a pattern, and the official check where there is one.

A check finds a number among what looks like it; it can't tell a number from digits that pass by chance. Each
check says how many do, of strings that have the shape, if they are random. Patterns are bounded. Letters are
capitals, as the documents print them, except at the end of cn_id and in tw_id and es_dni.

Not here: Japan's My Number. It is 12 digits in groups of four with one check digit that 1 in 10 pass, and so
is a Japanese parcel number, which texts have far more often.
"""

import re
from collections.abc import Sequence
from datetime import date

from pipelines.corpus.pii_kind import EDGE, END, Kind, accept_all

_CN_WEIGHTS, _CN_CHECKS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2), "10X98765432"
_TW_LETTERS = "ABCDEFGHJKLMNPQRSTUVXYWZIO"
_ES_LETTERS, _ES_FOREIGN = "TRWAGMYFPDXBNJZSQVHLCKE", str.maketrans("XYZ", "012")
_IT_MONTHS, _IT_DIGITS = "ABCDEHLMPRST", str.maketrans("LMNPQRSTUV", "0123456789")
_IT_ODD = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
_VERHOEFF = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)
_KR_RANDOM_SINCE = date(2020, 10, 1)


def is_cn_id(found: str) -> bool:
    """China, resident identity number: birth date and check digit modulo 11 (GB 11643-1999).

    By chance 1 in 370: 1 in 11 for the check, 1 in 34 for the date.
    """
    born = _read_day(found[6:14])
    if born is None or born.year < 1850:
        return False
    return _CN_CHECKS[_weigh(found[:17], _CN_WEIGHTS) % 11] == found[17].upper()


def is_tw_id(found: str) -> bool:
    """Taiwan, national number, and resident certificate in its old (two letters) and new form (8 or 9).

    A letter stands for two digits from 10 on, in the order of _TW_LETTERS; of a second letter only the last
    digit counts. The sum with weights 1, 9, 8 to 1, 1 is 0 modulo 10 (Ministry of the Interior). By chance
    1 in 10, so of a letter and nine random digits 1 in 25.
    """
    tens, ones = divmod(_TW_LETTERS.index(found[0].upper()) + 10, 10)
    second = found[1] if found[1].isdigit() else str(_TW_LETTERS.index(found[1].upper()) % 10)
    return _weigh(f"{tens}{ones}{second}{found[2:]}", (1, 9, 8, 7, 6, 5, 4, 3, 2, 1, 1)) % 10 == 0


def is_hk_id(found: str) -> bool:
    """Hong Kong, identity card: the sum with weights 9 to 1 is 0 modulo 11, A counts 10 and Z 35, a missing
    first letter 36 (Immigration Department). By chance 1 in 11.

    Two letters are taken only with the brackets that the card prints: without them it is the form of a patent
    (US9368516)."""
    values = [int(character, 36) for character in _keep_alphanumeric(found)]
    return sum(value * weight for weight, value in enumerate([36, *values][-9:][::-1], 1)) % 11 == 0


def is_us_ssn(found: str) -> bool:
    """United States, social security number: no area 000, 666 or 9xx, no group 00, no serial 0000 (Social
    Security Administration, 20 CFR 422.103 and POMS RM 10201.030). No check digit: by chance 8 in 9, so
    only the form with hyphens is taken. Telephone and other numbers written 3-2-4 are taken too."""
    area, group, serial = found.split("-")
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def is_es_dni(found: str) -> bool:
    """Spain, DNI and NIE: the letter is the number modulo 23; X, Y, Z in front are 0, 1, 2 (Real Decreto
    1553/2005; Orden INT/2058/2008). By chance 1 in 23.

    Eight digits in one piece that are a day of 1900 to 2099 are a date with a letter (20171129Z). That loses
    1 in 1,400 DNIs."""
    if _is_day_of_texts(found[:8]):
        return False
    number = _keep_alphanumeric(found).upper()
    digits = number[:-1].translate(_ES_FOREIGN)
    return _ES_LETTERS[int(digits) % 23] == number[-1]


def is_fr_nir(found: str) -> bool:
    """France, NIR: the key is 97 less the number modulo 97; Corsica's 2A counts as 19 and 2B as 18 (INSEE,
    décret 82-103). Sexes 3 and 4 (registration under way) are left out: cards begin with them. By chance 1
    in 97."""
    number = _keep_alphanumeric(found)
    birth_place = {"2A": "19", "2B": "18"}.get(number[5:7], number[5:7])
    return 97 - int(number[:5] + birth_place + number[7:13]) % 97 == int(number[13:])


def is_it_cf(found: str) -> bool:
    """Italy, codice fiscale: birth day (women 40 more) and check letter, also where letters stand for digits
    because two persons had the same code (Decreto ministeriale 23 dicembre 1976). By chance 1 in 42."""
    code = found.replace(" ", "")
    day, women = int(code[9:11].translate(_IT_DIGITS)), 40
    try:
        date(2000, _IT_MONTHS.index(code[8]) + 1, day - women if day > women else day)
    except ValueError:
        return False
    # A digit counts as the letter of its rank: 0 as A, 9 as J.
    ranks = [ord(letter) - ord("0" if letter.isdigit() else "A") for letter in code]
    total = sum(_IT_ODD[rank] for rank in ranks[:15:2]) + sum(ranks[1:15:2])
    return total % 26 == ranks[15]


def is_br_cpf(found: str) -> bool:
    """Brazil, CPF: two check digits modulo 11 with weights up to 10 and up to 11, where 10 counts as 0; one
    digit eleven times passes and is no CPF (Receita Federal). By chance 1 in 100."""
    digits = _keep_alphanumeric(found)
    checks = [_weigh(digits[:length], range(length + 1, 1, -1)) * 10 % 11 % 10 for length in (9, 10)]
    return len(set(digits)) > 1 and digits[9:] == f"{checks[0]}{checks[1]}"


def is_in_aadhaar(found: str) -> bool:
    """India, Aadhaar: Verhoeff's check digit, which follows the group of the symmetries of a pentagon (UIDAI,
    A UID Numbering Scheme, 2010; Verhoeff 1969). By chance 1 in 10, so of 12 random digits 1 in 12.

    Three years of 1900 to 2099 (2023 2024 2025) and a day of these with its hour and minute (201705060241)
    are none. That loses 1 in 14,000 numbers."""
    digits = _keep_alphanumeric(found)
    if all("1900" <= digits[start : start + 4] <= "2099" for start in (0, 4, 8)):
        return False
    if _is_day_of_texts(digits[:8]) and digits[8:10] < "24" and digits[10:] < "60":
        return False
    state = 0
    for position, character in enumerate(reversed(digits)):
        digit = int(character)
        for _ in range(position % 8):
            digit = _VERHOEFF[digit]
        rotation = state + (digit if state < 5 else -digit)  # a reflection turns what follows the other way
        state = rotation % 5 + (5 if (state < 5) != (digit < 5) else 0)
    return state == 0


def is_kr_rrn(found: str) -> bool:
    """Korea, resident and foreigner registration number: a birth date, whose century the digit after it says,
    and a check digit modulo 11, to which foreigners (5 to 8) add 2.

    Numbers given since October 2020 are random after the sex digit (Enforcement Rules of the Resident
    Registration Act). So with the hyphen a birth from then on, to the end of 2099, needs no check digit: no
    clock is asked, so a text gives the same result in any year. By chance 1 in 60 with the hyphen, 1 in 270
    without. Of numbers that begin with a date since then, such as order 231105-4567890, 11 in 20 pass.

    Who was born earlier and got a number since then is missed 9 times in 10: naturalized persons, some 11,000
    a year, persons whose number was changed, some 1,000 a year, and births of the weeks before. So are
    foreigners' numbers against the rule, which have been seen (GitHub, banksalad/rrn, pull request 4).
    """
    digits = found.replace("-", "")
    born = _read_day(("19" if digits[6] in "1256" else "20") + digits[:6])
    if born is None:
        return False
    if "-" in found and born >= _KR_RANDOM_SINCE:
        return True
    offset = 13 if digits[6] in "5678" else 11
    check = (offset - _weigh(digits[:12], (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)) % 11) % 10
    return int(digits[12]) == check


def _read_day(digits: str) -> date | None:
    """The day that YYYYMMDD names; None if there is no such day."""
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return None


def _is_day_of_texts(digits: str) -> bool:
    """Whether it is YYYYMMDD, a day of the years that texts write about: 1900 to 2099."""
    day = _read_day(digits) if digits.isdigit() else None
    return day is not None and 1900 <= day.year <= 2099


def _weigh(digits: str, weights: Sequence[int]) -> int:
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=True))


def _keep_alphanumeric(found: str) -> str:
    return "".join(character for character in found if character.isalnum())


# Digits are no number of their own after a plus, a decimal point, another part of a UUID or a dialling code.
_START = (
    r"(?<![0-9A-Za-z+])(?<![0-9A-Fa-f][.-])"
    r"(?<!\+[0-9][ .-])(?<!\+[0-9]{2}[ .-])(?<!\+[0-9]{3}[ .-])"
)
_STOP = END + r"(?![.-][0-9])"
_IT_DIGIT = "[0-9LMNP-V]"

NATIONAL_IDS = {
    "cn_id": Kind(
        re.compile(r"[1-9][0-9]{16}"), re.compile(rf"{EDGE}[1-9][0-9]{{16}}[0-9Xx]{END}"), is_cn_id, "<CN_ID>"
    ),
    "tw_id": Kind(
        re.compile(r"[A-Za-z][1289A-Da-d][0-9]{8}"),
        re.compile(rf"{EDGE}[A-Za-z][1289A-Da-d][0-9]{{8}}{END}"),
        is_tw_id,
        "<TW_ID>",
    ),
    "hk_id": Kind(
        re.compile(r"[A-Z][0-9]{6}"),
        re.compile(
            rf"{EDGE}(?:[A-Z]{{1,2}}[0-9]{{6}} ?(?:\([0-9A]\)|（[0-9A]）)|[A-Z][0-9]{{6}}[0-9A]{END})"
        ),
        is_hk_id,
        "<HK_ID>",
    ),
    "us_ssn": Kind(
        re.compile(r"[0-9]-[0-9]{2}-[0-9]{4}"),
        re.compile(rf"{_START}[0-9]{{3}}-[0-9]{{2}}-[0-9]{{4}}{_STOP}"),
        is_us_ssn,
        "<US_SSN>",
    ),
    "gb_nino": Kind(  # HMRC, NIM39110; no check digit: by chance 1 in 12 of two letters, six digits, a letter
        re.compile(r"[0-9]{2}[ -]?[0-9]{2}[ -]?[A-D]"),
        re.compile(
            rf"{EDGE}(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]"
            rf"(?:[ -]?[0-9]{{2}}){{3}}[ -]?[A-D]{END}"
        ),
        accept_all,
        "<GB_NINO>",
    ),
    "es_dni": Kind(
        re.compile(r"[0-9]{3}-?[A-Za-z]"),
        re.compile(
            rf"{EDGE}(?<![0-9]\.)(?:[0-9]{{8}}|[0-9]{{2}}\.[0-9]{{3}}\.[0-9]{{3}}|[X-Zx-z]-?[0-9]{{7}})"
            rf"-?[A-HJ-NP-TV-Za-hj-np-tv-z]{END}"
        ),
        is_es_dni,
        "<ES_DNI>",
    ),
    "fr_nir": Kind(
        re.compile(r"[0-9]{3}[ .-]?[0-9]{3}[ .-]?[0-9]{2}"),
        re.compile(
            rf"{_START}[1278][ .-]?[0-9]{{2}}[ .-]?(?:0[1-9]|1[0-2]|20|3[0-9]|4[0-2]|[5-9][0-9])[ .-]?"
            rf"(?:[0-9]{{2}}|2[AB])[ .-]?[0-9]{{3}}[ .-]?[0-9]{{3}}[ .-]?[0-9]{{2}}{_STOP}"
        ),
        is_fr_nir,
        "<FR_NIR>",
    ),
    "it_cf": Kind(
        re.compile(rf"{_IT_DIGIT}[{_IT_MONTHS}]{_IT_DIGIT}{{2}} ?[A-Z]{_IT_DIGIT}{{3}}"),
        re.compile(
            rf"{EDGE}[A-Z]{{3}} ?[A-Z]{{3}} ?{_IT_DIGIT}{{2}}[{_IT_MONTHS}]{_IT_DIGIT}{{2}} ?"
            rf"[A-Z]{_IT_DIGIT}{{3}} ?[A-Z]{END}"
        ),
        is_it_cf,
        "<IT_CF>",
    ),
    "br_cpf": Kind(
        re.compile(r"[0-9]{3}\.?[0-9]{3}-?[0-9]{2}"),
        re.compile(rf"{_START}[0-9]{{3}}(?:\.[0-9]{{3}}\.|[0-9]{{3}})[0-9]{{3}}-?[0-9]{{2}}{_STOP}"),
        is_br_cpf,
        "<BR_CPF>",
    ),
    "in_aadhaar": Kind(
        re.compile(r"[0-9]{4}[ -]?[0-9]{4}"),
        re.compile(  # one group of four more on either side is a card's
            rf"{_START}(?<![0-9]{{4}}[ -])[2-9][0-9]{{3}}([ -]?)[0-9]{{4}}\1[0-9]{{4}}{_STOP}"
            r"(?! [0-9]{4}(?![0-9]))"
        ),
        is_in_aadhaar,
        "<IN_AADHAAR>",
    ),
    "kr_rrn": Kind(
        re.compile(r"[0-9]{6}-?[1-8][0-9]{6}"),
        re.compile(rf"{_START}[0-9]{{6}}-?[1-8][0-9]{{6}}{_STOP}"),
        is_kr_rrn,
        "<KR_RRN>",
    ),
}
"""In the order in which they are looked for."""

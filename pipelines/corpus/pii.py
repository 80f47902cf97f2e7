"""Personal data in texts -> typed placeholders, counted. What was found is kept nowhere and never logged.

Each kind is a pattern and, where the format has one, a check: a public IP address, Luhn's digit of a payment
card, birth date and check digit of a Chinese resident identity number (GB 11643-1999). A pattern that cannot
be checked takes what looks like it: four numbers with periods are an address and not a version. Names and
street addresses are not found. The patterns are bounded, so a text of any kind takes linear time.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable
from datetime import date
from typing import NamedTuple

_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_DIGITS = "10X98765432"
# Ideographs count as \w, so the edges name what must not touch: Latin letters and digits.
_EDGE, _END = r"(?<![0-9A-Za-z])", r"(?![0-9A-Za-z])"


class Kind(NamedTuple):
    """One kind of personal data."""

    hint: re.Pattern[str]
    """A part of what the pattern finds, which is found some times faster: most texts have none."""
    pattern: re.Pattern[str]
    is_real: Callable[[str], bool]
    placeholder: str


def is_public_address(found: str) -> bool:
    """Whether it is an IP address of the public internet: private, local and reserved ones name no one."""
    try:
        return ipaddress.ip_address(found).is_global
    except ValueError:
        return False


def has_luhn_digit(found: str) -> bool:
    """Whether 13 to 19 digits, with spaces or hyphens, end in the check digit of a payment card."""
    digits = [int(character) for character in found if character.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[::-2]) + sum(doubled)) % 10 == 0


def is_resident_id(found: str) -> bool:
    """Whether 18 characters are a Chinese resident identity number: a birth date and the check digit."""
    try:
        born = date(int(found[6:10]), int(found[10:12]), int(found[12:14]))
    except ValueError:
        return False
    check = sum(int(digit) * weight for digit, weight in zip(found[:17], _ID_WEIGHTS, strict=True)) % 11
    return born.year >= 1850 and _ID_DIGITS[check] == found[17].upper()


def _always(found: str) -> bool:
    return True


_BYTE = r"[0-9]{1,3}"
_GROUP = r"[0-9A-Fa-f]{0,4}"
KINDS = {
    "email": Kind(
        re.compile("@"),
        re.compile(
            r"(?<![0-9A-Za-z._%+-])[0-9A-Za-z][0-9A-Za-z._%+-]{0,63}@"
            r"(?:[0-9A-Za-z-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![0-9A-Za-z-])"
        ),
        _always,
        "<EMAIL>",
    ),
    "ip": Kind(
        re.compile(r"[0-9]\.[0-9]|:[0-9A-Fa-f]{0,4}:"),
        re.compile(
            rf"(?<![0-9A-Za-z.:])(?:{_BYTE}\.{_BYTE}\.{_BYTE}\.{_BYTE}(?!\.?[0-9A-Za-z])"
            rf"|(?:{_GROUP}:){{2,7}}{_GROUP}(?![0-9A-Za-z:]))"
        ),
        is_public_address,
        "<IP>",
    ),
    "cn_id": Kind(
        re.compile(r"[1-9][0-9]{16}"),
        re.compile(rf"{_EDGE}[1-9][0-9]{{16}}[0-9Xx]{_END}"),
        is_resident_id,
        "<CN_ID>",
    ),
    "card": Kind(
        re.compile(r"[2-6](?:[ -]?[0-9]){12}"),
        re.compile(rf"{_EDGE}[2-6](?:[ -]?[0-9]){{12,18}}{_END}"),
        has_luhn_digit,
        "<CARD>",
    ),
    "cn_mobile": Kind(
        re.compile(r"1[3-9][0-9](?:[ -]?[0-9]{4}){2}"),
        re.compile(
            rf"(?:(?<![0-9A-Za-z+])|\+86[ -]?|{_EDGE}0086[ -]?)1[3-9][0-9](?:[ -]?[0-9]{{4}}){{2}}{_END}"
        ),
        _always,
        "<CN_MOBILE>",
    ),
    "phone": Kind(
        re.compile(r"\+[1-9]|[2-9][0-9]{2}[ .-][0-9]{4}"),
        re.compile(
            r"(?<![0-9A-Za-z+])\+[1-9][0-9]{0,2}(?:[ .-]?(?:\([0-9]{1,4}\)|[0-9]{1,4})){2,5}" + _END + "|"
            r"(?<![0-9A-Za-z.-])(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ .-])[2-9][0-9]{2}[ .-][0-9]{4}"
            r"(?![0-9A-Za-z-])"
        ),
        lambda found: 8 <= sum(character.isdigit() for character in found) <= 15,
        "<PHONE>",
    ),
}
"""In the order in which they are looked for: a resident number is also sixteen digits of a card."""


def replace_pii(text: str, kinds: Iterable[str]) -> tuple[str, dict[str, int]]:
    """The text with placeholders, and how many of each kind were replaced (only kinds that were found)."""
    asked, counts = set(kinds), {}
    for name, kind in KINDS.items():
        if name in asked and kind.hint.search(text):
            text, count = _replace(text, kind)
            if count:
                counts[name] = count
    return text, counts


def _replace(text: str, kind: Kind) -> tuple[str, int]:
    count = 0

    def choose(match: re.Match[str]) -> str:
        nonlocal count
        if not kind.is_real(match[0]):
            return match[0]
        count += 1
        return kind.placeholder

    return kind.pattern.sub(choose, text), count

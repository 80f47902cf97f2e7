"""Personal data in texts -> typed placeholders, counted. What was found is kept nowhere and never logged.

Each kind is a pattern and, where the format has one, a check: a public IP address, Luhn's digit of a payment
card, the check digits of national identity numbers (`national_ids.py`). A pattern that cannot be checked
takes what looks like it: four numbers with periods are an address and not a version. Names and street
addresses are not found. The patterns are bounded, so a text of any kind takes linear time.
"""

import ipaddress
import re
from collections.abc import Iterable

from pipelines.corpus.national_ids import NATIONAL_IDS
from pipelines.corpus.pii_kind import EDGE, END, Kind, accept_all


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


_BYTE = r"[0-9]{1,3}"
_GROUP = r"[0-9A-Fa-f]{0,4}"
KINDS = {
    "email": Kind(
        re.compile("@"),
        re.compile(
            r"(?<![0-9A-Za-z._%+-])[0-9A-Za-z][0-9A-Za-z._%+-]{0,63}@"
            r"(?:[0-9A-Za-z-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![0-9A-Za-z-])"
        ),
        accept_all,
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
    **NATIONAL_IDS,
    "card": Kind(
        re.compile(r"[2-6](?:[ -]?[0-9]){12}"),
        re.compile(rf"{EDGE}[2-6](?:[ -]?[0-9]){{12,18}}{END}"),
        has_luhn_digit,
        "<CARD>",
    ),
    "cn_mobile": Kind(
        re.compile(r"1[3-9][0-9](?:[ -]?[0-9]{4}){2}"),
        re.compile(
            rf"(?:(?<![0-9A-Za-z+])|\+86[ -]?|{EDGE}0086[ -]?)1[3-9][0-9](?:[ -]?[0-9]{{4}}){{2}}{END}"
        ),
        accept_all,
        "<CN_MOBILE>",
    ),
    "phone": Kind(
        re.compile(r"\+[1-9]|[2-9][0-9]{2}[ .-][0-9]{4}"),
        re.compile(
            r"(?<![0-9A-Za-z+])\+[1-9][0-9]{0,2}(?:[ .-]?(?:\([0-9]{1,4}\)|[0-9]{1,4})){2,5}" + END + "|"
            r"(?<![0-9A-Za-z.-])(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ .-])[2-9][0-9]{2}[ .-][0-9]{4}"
            r"(?![0-9A-Za-z-])"
        ),
        lambda found: 8 <= sum(character.isdigit() for character in found) <= 15,
        "<PHONE>",
    ),
}
"""In the order in which they are looked for. National identity numbers come before cards and telephone
numbers: some have as many digits as a card or a Chinese mobile number, and their checks let fewer pass."""


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

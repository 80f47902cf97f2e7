"""Identity numbers drawn at random, and twins that work out check characters in another way than the code."""

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


def hk_body(draw, letters=1):
    return "".join(draw.choices(CAPITALS, k=letters)) + draw_digits(draw, 6)


def hk_check(body):
    letters, digits = body[:-6].rjust(2), body[-6:]
    values = [36 if letter == " " else ord(letter) - 55 for letter in letters] + [int(d) for d in digits]
    remainder = sum((9 - place) * value for place, value in enumerate(values)) % 11
    return {0: "0", 1: "A"}.get(remainder) or str(11 - remainder)


def es_body(draw):  # 1 and 2 in front may be a date
    return draw.choice("03456789XYZ") + draw_digits(draw, 7)


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

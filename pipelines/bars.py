"""Bars and the tables that hold them: the one kind of picture of a report.

A bar is an SVG of 1000 x 10 units that takes the width of its cell, so it fits a wide screen and a telephone.
Its numbers stand beside it as text; what cannot see the picture reads the table.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipelines.markup import Html, join, tag

_WIDTH, _MIN_WIDTH = 1000.0, 4.0
"""Units of a whole bar, and of the smallest amount that is not 0: it must be seen."""
NO_BREAK = "\u00a0"
"""A space where a narrow cell does not break a line."""
_UNITS = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"))


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a bar, with the class that colours it."""

    colour: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a table with bars: its name, its numbers, and one bar above another."""

    name: object
    numbers: Sequence[object]
    bars: Sequence[Sequence[Part]] = ()
    css: str | None = None
    wholes: Sequence[int] | None = None
    """Whole of each bar, if it is another one than in the other lines."""


def stack(*sizes: tuple[str, int]) -> list[Part]:
    """Parts one after another."""
    parts, start = [], 0
    for colour, size in sizes:
        parts.append(Part(colour, start, size))
        start += size
    return parts


def draw_bars(bars: Sequence[Sequence[Part]], wholes: Sequence[int]) -> Html:
    """The bars, each of its own whole (0 = empty), one above another."""
    height = 10.0 / max(1, len(bars))
    rects = [
        _draw_part(part, whole, top=number * height, height=height - (0.8 if len(bars) > 1 else 0))
        for number, (bar, whole) in enumerate(zip(bars, wholes, strict=True))
        for part in bar
        if part.size > 0 and whole > 0
    ]
    return tag(
        "svg",
        *rects,
        class_="bar" if len(bars) < 2 else "bar two",
        viewBox="0 0 1000 10",
        preserveAspectRatio="none",
        aria_hidden="true",
    )


def _draw_part(part: Part, whole: int, *, top: float, height: float) -> Html:
    width = max(_MIN_WIDTH, part.size / whole * _WIDTH)
    start = min(part.start / whole * _WIDTH, _WIDTH - width)
    return tag(
        "rect",
        class_=part.colour,
        x=f"{start:.5g}",
        y=f"{top:.3g}",
        width=f"{width:.5g}",
        height=f"{height:.3g}",
    )


def draw_table(headers: Sequence[str], lines: Iterable[Line], wholes: Sequence[int]) -> Html:
    """A table; the first header is that of the names, below which the bars stand."""
    head = tag("tr", *(tag("th", header, scope="col") for header in headers))
    rows = []
    for line in lines:
        picture = draw_bars(line.bars, line.wholes or wholes) if line.bars else ""
        cells = join(*(tag("td", number) for number in line.numbers))
        rows.append(
            tag(
                "tr",
                tag("th", tag("span", line.name, class_="name"), picture, scope="row"),
                cells,
                class_=line.css,
            )
        )
    return tag("div", tag("table", tag("thead", head), tag("tbody", *rows)), class_="scroll")


def draw_legend(*entries: tuple[str, str]) -> Html:
    """(colour, what it stands for)."""
    return tag(
        "p", *(tag("span", tag("i", class_=colour), text) for colour, text in entries), class_="legend"
    )


def format_share(part: int, whole: int) -> str:
    """A share in per cent: 12 %, 1.2 %; - of nothing. Only 0 is 0 %, only all is 100 %."""
    if not whole:
        return "-"
    share = 100 * part / whole
    if part in (0, whole):
        return f"{share:.0f} %"
    if share < 0.01:
        return "< 0.01 %"
    if share > 99.9:
        return "> 99.9 %"
    return f"{share:.3g} %" if share >= 99.5 else f"{share:.2g} %"


def format_large(number: int) -> str:
    """A number for a small place: whole up to ten million, then 12.3 million, 4.56 billion."""
    if number < 10**7:
        return f"{number:,}"
    size, unit = next(item for item in _UNITS if number >= item[0])
    value = number / size
    return f"{value:,.3g} {unit}" if value < 999.5 else f"{value:,.0f} {unit}"


def format_bits(bits: int) -> str:
    """The whole numbers of so many bits: 0, 1, 2 to 3, 4 to 7; each group is twice as wide as the last."""
    return str(bits) if bits < 2 else f"{2 ** (bits - 1):,} to {2**bits - 1:,}"

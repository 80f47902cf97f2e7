"""Horizontal bars with a name at the left and numbers at the right of each row: the pictures of reports.

Import it only where a picture is drawn: it loads matplotlib.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipelines.charts import find_font, shorten_name

MAX_NAME = 52
"""Longer names lose their middle. With fewer characters, some rules of presets would get one name."""


def open_figure(*, num_rows: int, title: str) -> tuple[Figure, Axes]:
    """A figure for horizontal bars, the first at the top."""
    figure = Figure(figsize=(9, 1.1 + 0.3 * max(2, num_rows)), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.invert_yaxis()
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Names that no installed font can draw become numbers of rows; the page has them."""
    drawn = [name if find_font([name]) else f"(row {row})" for row, name in enumerate(names, start=1)]
    shown = [shorten_name(name, MAX_NAME) for name in drawn]
    axes.set_yticks(range(len(names)), shown, fontsize=8, fontfamily=find_font(shown) or ["DejaVu Sans"])
    axes.set_ylim(len(names) - 0.4, -0.6)


def note_rows(axes: Axes, notes: Sequence[str]) -> None:
    """Numbers at the right of each row, outside of the bars."""
    for row, note in enumerate(notes):
        axes.annotate(
            note, (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=8, linespacing=1.0
        )

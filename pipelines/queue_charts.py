"""The picture of a queue: trainings over slots. Loads matplotlib, as `charts` does."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from pipelines.charts import find_font, shorten_name

MAX_COLOURS = 10
"""Recipes with a colour of their own; the others share grey."""
OTHER = "#9aa0a6"
CHARACTER = 0.009
"""Width of a character of a name, as a share of the time axis."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A training that ran from `start` to `end`, in seconds."""

    name: str
    colour: str
    """Name of what has a colour of its own, such as the recipe."""
    group: str
    slots: int
    start: float
    end: float
    note: str = ""
    """How it ended, if it did not end well: it is drawn with a dashed edge."""


def place_bars(bars: Iterable[Bar]) -> list[tuple[Bar, list[int]]]:
    """The bars of one group, each with its slots: the lowest numbers that are free when it starts."""
    busy: list[tuple[float, list[int]]] = []
    placed = []
    for bar in sorted(bars, key=lambda bar: (bar.start, bar.end, bar.name)):
        busy = [(end, rows) for end, rows in busy if end > bar.start]
        taken = {row for _, rows in busy for row in rows}
        free = (row for row in range(len(taken) + bar.slots) if row not in taken)
        rows = [next(free) for _ in range(bar.slots)]
        busy.append((bar.end, rows))
        placed.append((bar, rows))
    return placed


def draw_timeline(bars: Sequence[Bar], sizes: Mapping[str, int], *, title: str) -> Figure:
    """One part for each group of machines: time to the right, one row for each slot. A training that takes
    several slots is a higher bar; one that was stopped or failed has a dashed edge."""
    groups = list(dict.fromkeys([*sizes, *(bar.group for bar in bars)]))
    placed = {group: place_bars(bar for bar in bars if bar.group == group) for group in groups}
    heights = [
        max([sizes.get(group, 1), *(row + 1 for _, rows in placed[group] for row in rows)])
        for group in groups
    ]
    size = (10, 1.4 + min(12.0, sum(0.4 + 0.28 * height for height in heights)))
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    parts = figure.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    names = list(dict.fromkeys(bar.colour for bar in bars))
    colours = {name: f"C{number}" if number < MAX_COLOURS else OTHER for number, name in enumerate(names)}
    end = max((bar.end for bar in bars), default=1.0)
    unit, seconds = _choose_unit(end)
    for group, axes, height in zip(groups, parts, heights, strict=True):
        for bar, rows in placed[group]:
            _draw_bar(axes, bar, rows, colour=colours[bar.colour], seconds=seconds, end=end)
        axes.set(ylabel=f"{group}: slots", ylim=(height, 0), xlim=(0, end / seconds * 1.01))
        axes.set_yticks([] if height > 32 else range(height + 1), labels=None)
        axes.tick_params(axis="y", labelleft=False)
        axes.spines[["top", "right"]].set_visible(False)
    parts[0].set_title(title)
    parts[-1].set_xlabel(f"{unit} since the first training was added")
    shown = names[:MAX_COLOURS]
    handles = [Patch(color=colours[name], label=shorten_name(name)) for name in shown]
    if len(names) > MAX_COLOURS:
        handles.append(Patch(color=OTHER, label=f"{len(names) - MAX_COLOURS} others"))
    font = {"size": 8, "family": find_font(shown) or ["DejaVu Sans"]}
    figure.legend(handles=handles, loc="outside right upper", frameon=False, prop=font)
    return figure


def _draw_bar(axes: Axes, bar: Bar, rows: list[int], *, colour: str, seconds: float, end: float) -> None:
    """One rectangle for each run of neighbouring slots; the name stands in the first one, if it has room."""
    start, width = bar.start / seconds, (bar.end - bar.start) / seconds
    runs: list[list[int]] = []
    for row in rows:
        if runs and row == runs[-1][-1] + 1:
            runs[-1].append(row)
        else:
            runs.append([row])
    for run in runs:
        axes.add_patch(
            Rectangle(
                (start, run[0] + 0.06),
                width,
                len(run) - 0.12,
                facecolor=colour,
                edgecolor="black",
                linewidth=0.8,
                linestyle="--" if bar.note else "-",
                alpha=0.3 if bar.note else 0.7,
            )
        )
    if bar.end - bar.start >= CHARACTER * len(bar.name) * end:
        middle = (runs[0][0] + runs[0][-1] + 1) / 2
        axes.text(start + width / 2, middle, bar.name, ha="center", va="center", fontsize=7, clip_on=True)


def _choose_unit(seconds: float) -> tuple[str, float]:
    if seconds < 180:
        return "seconds", 1.0
    return ("minutes", 60.0) if seconds < 3 * 3600 else ("hours", 3600.0)

"""Charts of a search: the metric by trial, and by each parameter. Loads matplotlib, as `charts` does."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipelines.charts import BLUE, GREY, ORANGE

MAX_PARAMETERS = 12
"""With a picture of their own; the table has all."""
LOG_FACTOR = 20.0
"""From this ratio of largest to smallest on, numbers stand on a logarithmic axis."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A candidate of one round."""

    number: int
    rung: int
    settings: dict[str, Any]
    value: float
    """Not a number = it failed."""
    spread: float
    is_best: bool


def draw_search(points: Sequence[Point], *, metric: str, title: str) -> Figure:
    """Above the metric by trial, with the spread over folds; below by each parameter. Earlier rounds are
    pale, the best is orange, failed trials are crosses at the bottom."""
    keys = list(dict.fromkeys(key for point in points for key in point.settings))[:MAX_PARAMETERS]
    columns = min(3, max(1, len(keys)))
    num_rows = -(-len(keys) // columns)
    figure = Figure(figsize=(9, 3.4 + 2.8 * num_rows), dpi=130, layout="constrained")
    grid = figure.add_gridspec(1 + num_rows, columns, height_ratios=[1.2, *[1.0] * num_rows])
    top = figure.add_subplot(grid[0, :])
    _draw_points(top, points, [float(point.number) for point in points], with_spread=True)
    top.set(title=title, xlabel="trial", ylabel=metric)
    top.xaxis.set_major_locator(MaxNLocator(integer=True))
    for place, key in enumerate(keys):
        axes = figure.add_subplot(grid[1 + place // columns, place % columns])
        _draw_parameter(axes, points, key)
        axes.set(xlabel=key, ylabel=metric if place % columns == 0 else "")
    return figure


def _draw_parameter(axes: Axes, points: Sequence[Point], key: str) -> None:
    values = [point.settings.get(key) for point in points]
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if len(numbers) < len(values):
        names = sorted({str(value) for value in values})
        _draw_points(axes, points, [float(names.index(str(value))) for value in values])
        axes.set_xticks(range(len(names)), names)
        return
    _draw_points(axes, points, [float(number) for number in numbers])
    if min(numbers) > 0 and max(numbers) / min(numbers) >= LOG_FACTOR:
        axes.set_xscale("log")


def _draw_points(axes: Axes, points: Sequence[Point], places: list[float], with_spread: bool = False) -> None:
    last = max((point.rung for point in points), default=0)
    for point, place in zip(points, places, strict=True):
        if not math.isfinite(point.value):
            axes.plot(place, 0.04, marker="x", color=GREY, transform=axes.get_xaxis_transform())
            continue
        colour = ORANGE if point.is_best else BLUE
        alpha = 1.0 if point.is_best else 0.35 + 0.5 * (point.rung + 1) / (last + 1)
        spread = point.spread if with_spread and point.spread > 0 else None
        axes.errorbar(
            place,
            point.value,
            yerr=spread,
            fmt="o",
            color=colour,
            alpha=alpha,
            capsize=3,
            zorder=3 if point.is_best else 2,
        )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)

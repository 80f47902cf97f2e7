"""Charts of a run: loss curve, confusion matrix. Arrays in, matplotlib figures out.

Figures are drawn without pyplot: no global state, no display, and no leak when a driver draws thousands.
Importing this module loads matplotlib, so import it only where a chart is drawn.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.machine import cache_folder

# matplotlib creates a folder in ~/.config when it is imported, unless this variable names another.
os.environ.setdefault("MPLCONFIGDIR", str(cache_folder() / "matplotlib"))

# isort: split
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.ticker import MaxNLocator, PercentFormatter

BLUE, ORANGE, GREY = "#2f6db3", "#d9822b", "#8a8f98"
CJK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "SimHei",
    "Arial Unicode MS",
    "Noto Sans CJK JP",
    "Droid Sans Fallback",
)
MAX_NAME = 32
"""Longer names of classes and sources lose their middle in a chart, because beginnings are often the same.
The text keeps them whole."""

MAX_SOURCES = 20
"""Sources with a colour and a name of their own."""

Points = Mapping[int, float]
"""Step -> value."""


def draw_loss_curve(
    train: Points, evaluation: Points, learning_rate: Points, *, title: str, unit: str = "loss"
) -> Figure:
    """Training loss (raw and smoothed) with evaluation points, and the learning rate below; x = step.

    Values that are not finite are left out.
    """
    figure = Figure(figsize=(9, 5.4), dpi=130, layout="constrained")
    loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=(5, 1))
    steps, values = _finite_points(train)
    if len(steps) > 50:
        loss.plot(steps, values, color=BLUE, alpha=0.22, linewidth=0.8)
        loss.plot(
            steps,
            _smooth(values, window=max(5, len(steps) // 40)),
            color=BLUE,
            linewidth=1.8,
            label="train, smoothed",
        )
    elif len(steps):
        loss.plot(
            steps, values, color=BLUE, linewidth=1.8, marker="." if len(steps) < 3 else "", label="train"
        )
    _draw_evaluation(loss, evaluation)
    loss.set(ylabel=unit, title=title)
    if loss.get_legend_handles_labels()[0]:
        loss.legend(frameon=False, loc="upper right")
    rate_steps, rates = _finite_points(learning_rate)
    rate.fill_between(rate_steps, rates, color=GREY, alpha=0.25, linewidth=0)
    rate.plot(rate_steps, rates, color=GREY, linewidth=1.2)
    rate.set(ylabel="learning\nrate", xlabel="step", ylim=(0, None))
    rate.ticklabel_format(axis="y", scilimits=(-2, 3))
    for axes in (loss, rate):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
        axes.margins(x=0.01)
    return figure


def draw_mixture(realised: Mapping[str, Points], planned: Mapping[str, float]) -> Figure:
    """Share of the tokens that came from each source, up to each step, with the planned share as a dashed
    line; the largest sources have names."""
    figure = Figure(figsize=(9, 4.4), dpi=130, layout="constrained")
    axes = figure.subplots()
    by_share = sorted(planned, key=lambda source: (-planned[source], source))
    for number, source in enumerate(by_share):
        color = f"C{number % 10}" if number < MAX_SOURCES else GREY
        steps, values = _finite_points(realised[source])
        label = f"{shorten_name(source)}: {planned[source]:.2%} planned" if number < MAX_SOURCES else None
        axes.plot(steps, values, color=color, linewidth=1.6, marker="o", markersize=3.5, label=label)
        axes.axhline(planned[source], color=color, linewidth=1, linestyle="--", alpha=0.6)
    axes.set(
        xlabel="step", ylabel="share of the tokens", ylim=(0, None), title="Mixture: realised and planned"
    )
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    return figure


def order_by_errors(counts: np.ndarray) -> np.ndarray:
    """Class numbers (num_classes,), most errors first (missed or wrongly predicted); ties by number."""
    errors = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    return np.argsort(-errors, kind="stable")


def draw_confusion(counts: np.ndarray, labels: Sequence[str], *, title: str) -> Figure:
    """Confusion matrix: blue = share of a class that was found, red = errors; classes with most errors come
    first.

    `counts` is (num_classes, num_classes), row = expected class. Rows and columns have class names up to 120
    classes, cells have counts up to 20. If no installed font can draw the names, class numbers replace them;
    `format_confusion` lists both.
    """
    order, num = order_by_errors(counts), len(labels)
    shown, diagonal = counts[np.ix_(order, order)], np.eye(num, dtype=bool)
    font = find_font(labels)
    size = float(np.clip(3.2 + 0.135 * num, 4.6, 18.0))
    figure = Figure(figsize=(size + 2.2, size + 0.9), dpi=110, layout="constrained")
    axes = figure.subplot_mosaic(
        [["cells", "."], ["cells", "found"], ["cells", "wrong"], ["cells", "."]], width_ratios=(45, 1)
    )
    share = np.broadcast_to(shown.diagonal() / np.maximum(1, shown.sum(1)), shown.shape)
    found = axes["cells"].imshow(np.ma.masked_where(~diagonal, share), cmap="Blues", vmin=-0.15, vmax=1)
    worst = max(1, int(shown[~diagonal].max(initial=0)))
    wrong = axes["cells"].imshow(
        np.ma.masked_where(diagonal | (shown == 0), shown),
        cmap="Reds",
        norm=PowerNorm(0.6, vmin=-0.3 * worst, vmax=worst),
    )
    _label_cells(axes["cells"], [shorten_name(labels[i]) if font else str(i) for i in order], font)
    if num <= 20:
        _write_counts(axes["cells"], shown)
    accuracy = counts.diagonal().sum() / max(1, counts.sum())
    axes["cells"].set_title(
        f"{title}\n{accuracy:.2%} of {counts.sum():,} right; classes with most errors first", loc="left"
    )
    figure.colorbar(
        found,
        cax=axes["found"],
        label="share of the class found",
        format=PercentFormatter(1.0),
        ticks=(0, 0.25, 0.5, 0.75, 1),
    )
    axes["found"].set_ylim(0, 1)
    figure.colorbar(
        wrong, cax=axes["wrong"], label="errors, documents", ticks=MaxNLocator(5, integer=True), format="%d"
    )
    axes["wrong"].set_ylim(0, worst)
    return figure


def format_confusion(counts: np.ndarray, labels: Sequence[str], *, num_pairs: int = 50) -> str:
    """The pairs confused most often, then every class with its number, recall and precision; most errors
    first."""
    wrong = counts - np.diag(counts.diagonal())
    pairs = sorted(
        ((int(n), int(e), int(p)) for e, p, n in _nonzero(wrong)),
        key=lambda pair: (-pair[0], pair[1], pair[2]),
    )
    lines = [
        f"{wrong.sum():,} of {counts.sum():,} documents wrong, in {len(pairs):,} pairs of classes",
        "",
        "count  expected -> predicted",
    ]
    lines += [
        f"{count:5,}  {labels[expected]} -> {labels[predicted]}"
        for count, expected, predicted in pairs[:num_pairs]
    ]
    if len(pairs) > num_pairs:
        lines.append(f"       ... and {len(pairs) - num_pairs:,} more pairs")
    lines += ["", "number  documents  recall  precision  class"]
    for number in order_by_errors(counts):
        expected, predicted, right = counts[number].sum(), counts[:, number].sum(), counts[number, number]
        recall, precision = _format_share(right, expected), _format_share(right, predicted)
        lines.append(f"{number:6}  {expected:9,}  {recall}  {precision:>9}  {labels[number]}")
    return "\n".join(lines) + "\n"


def find_font(texts: Sequence[str]) -> list[str] | None:
    """Font families that draw every character of `texts`; None if no installed font has them all."""
    needed = {ord(char) for text in texts for char in text if not char.isspace()}
    installed = {font.name: font.fname for font in fontManager.ttflist if font.style == "normal"}
    for families in (["DejaVu Sans"], *(["DejaVu Sans", name] for name in CJK_FONTS if name in installed)):
        drawable: set[int] = set()
        for name in families:
            drawable |= set(FT2Font(installed[name]).get_charmap())
        if needed <= drawable:
            return families
    return None


def _draw_evaluation(axes: Axes, evaluation: Points) -> None:
    steps, values = _finite_points(evaluation)
    if not len(steps):
        return
    axes.plot(steps, values, color=ORANGE, linewidth=1.2, marker="o", markersize=4, label="evaluation")
    best = int(np.argmin(values))
    axes.annotate(
        f"{values[best]:.4g} at step {steps[best]:,}",
        (steps[best], values[best]),
        xytext=(0, 9),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        color=ORANGE,
    )


def _label_cells(axes: Axes, names: Sequence[str], font: list[str] | None) -> None:
    num = len(names)
    axes.set(
        xlabel="predicted",
        ylabel="expected" if font else "expected (class numbers: no font has the names, see confusion.txt)",
    )
    axes.set_xticks(np.arange(-0.5, num), minor=True)
    axes.set_yticks(np.arange(-0.5, num), minor=True)
    axes.grid(which="minor", color="#e6e8eb", linewidth=0.4)
    axes.tick_params(which="both", length=0)
    if num > 120:
        axes.set(xticks=[], yticks=[])
        return
    style: dict[str, Any] = {"fontsize": 9 if num <= 30 else 6.5, "fontfamily": font or ["DejaVu Sans"]}
    axes.set_xticks(range(num), names, rotation=0 if max(map(len, names)) <= 3 else 90, **style)
    axes.set_yticks(range(num), names, **style)


def _write_counts(axes: Axes, shown: np.ndarray) -> None:
    worst, totals = max(1, shown[~np.eye(len(shown), dtype=bool)].max(initial=0)), np.maximum(1, shown.sum(1))
    for expected, predicted, count in _nonzero(shown):
        dark = count / totals[expected] > 0.55 if expected == predicted else count / worst > 0.55
        axes.text(
            predicted,
            expected,
            f"{count:,}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if dark else "#333333",
        )


def _finite_points(points: Points) -> tuple[np.ndarray, np.ndarray]:
    steps = np.array(sorted(points), dtype=np.int64)
    values = np.array([points[step] for step in steps.tolist()], dtype=float)
    return steps[np.isfinite(values)], values[np.isfinite(values)]


def _smooth(values: np.ndarray, *, window: int) -> np.ndarray:
    """Centred mean over `window` points, fewer at both ends, so that the curve neither lags nor drops."""
    kernel = np.ones(window)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")


def shorten_name(name: str, max_chars: int = MAX_NAME) -> str:
    """The name, or its beginning and its end if it is longer."""
    half = (max_chars - 1) // 2
    return name if len(name) <= max_chars else f"{name[:half]}\u2026{name[-half:]}"


def _nonzero(counts: np.ndarray) -> list[tuple[int, int, int]]:
    return [(e, p, counts[e, p]) for e, p in zip(*np.nonzero(counts), strict=True)]


def _format_share(part: int, whole: int) -> str:
    return f"{part / whole:6.1%}" if whole else "     -"
